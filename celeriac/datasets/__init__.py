"""Datasets: readers for CSV and Parquet, chunk planning, atomic files.

A dataset is planned once and read chunk by chunk, by any process, in any order. A chunk always
reads the same: column types are fixed in the plan, never guessed again from a chunk.
"""
