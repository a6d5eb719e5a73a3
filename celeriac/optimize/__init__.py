"""Faster forms of a model: planned, built, measured, compared, and registered if they are right."""
