"""Benchmarks: ``scripts/bench NAME``. They measure ratios side by side in one run."""
