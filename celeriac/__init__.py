"""Celeriac: machine-learning inference on Celery.

This package is the pure half of the product: no Celery, no web framework, no worker process.
What callers import is :mod:`producer`; what operators run is :mod:`workers`.
"""

__version__ = "0.1.0"
