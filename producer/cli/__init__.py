"""The ``celeriac`` command: one file per command; heavy imports inside the commands."""
