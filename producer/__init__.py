"""The producer half: what other services import to get predictions.

It imports no model library, and never a module named ``celeryconfig``, ``tasks`` or ``workers``:
it lives inside other people's projects, which have their own.
"""
