"""What all benchmarks share: the systems that are compared, how they are asked, and the report.

Read `benchmark.py` first: it says what a benchmark is. `docs/benchmarks.md` adds one, line by line.
"""
