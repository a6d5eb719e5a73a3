"""Readings of sensors: is one an anomaly, what is the alarm's state, what do a thousand say?

``readings`` makes columns of what came in, ``state`` is what is remembered of a sensor,
``detector`` and ``alarms`` judge, ``ingest`` puts them together for many sensors at once, and
``analysis`` looks at a whole batch of one sensor. All of it is arrays in, arrays out.
"""
