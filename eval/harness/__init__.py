"""The parts that all benchmarks share: the systems that are compared, the prompts, and the report.

Read `benchmark.py` first: it defines a benchmark. `docs/benchmarks.md` adds one, line by line.
"""
