"""The applications for a caller: each takes a client, asks models through it, and decides with
:mod:`celeriac.applications`. The gateway and the command use the same functions."""
