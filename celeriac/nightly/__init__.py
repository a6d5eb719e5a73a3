"""Nightly schedules: when a date is due, what is to be done for it, what Redis remembers of it."""
