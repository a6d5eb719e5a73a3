"""Applications of Celeriac, each run from beginning to end: ``python -m examples.NAME``."""
