"""Batch, mini-batch or real time? From what is required, and what the model was measured to cost.

Pure: no Redis, no model library, no clock.
"""
