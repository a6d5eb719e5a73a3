"""What benchmarks share: load, processes, tables, plots."""
