"""Drift: does what a model is asked now look like what it was made for?

Pure, but for ``dataset``, which reads one, ``registering``, which has the reference answered, and
what meets Redis (``counter``, ``counted``, ``standing``, ``feedback``, ``error_tests``): values
and clocks come in, findings go out. ``profile`` is what is kept of the reference, ``features`` and
``bins`` turn items into counts, ``check`` compares a dataset with the profile, and ``report``
shows what was found. Of single items, workers ``tally`` what they answer, and ``watching`` looks
at the newest (``window``, ``episodes``). Of labels, ``prediction_ids`` and ``labels`` say whether
a prediction was right, and ``concept`` whether that has changed.
"""
