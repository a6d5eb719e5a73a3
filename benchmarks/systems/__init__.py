"""The applications that ``scripts/bench applications`` measures, each in a module of its own.

Each has ``rows(home, quick)``, a generator of rows: it makes its data, models and stack in the new
folder ``home`` and leaves none of its processes. ``quick``: little data; is all in order?
"""
