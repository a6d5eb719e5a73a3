"""HTTP in front of the client. Needs the extra ``celeriac[gateway]``.

A request passes :mod:`guard` (who, how much, how long), then either a hot route, which is plain
ASGI, or the FastAPI application of all others.
"""
