"""The real-time lane: ``lane`` is its thread, ``step`` starts it, the others are its parts."""
