"""Imported by a pool process that was spawned: unlike a forked one it has no signals yet."""

from workers import lifecycle

lifecycle.connect_signals()
