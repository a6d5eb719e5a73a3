"""Thin Celery tasks: decode, call celeriac, encode."""
