"""Batch jobs: the plan on storage, the ledger in Redis, one chunk, the finaliser.

Truth is on storage, in the output folder; Redis coordinates and counts, and may be lost.
"""
