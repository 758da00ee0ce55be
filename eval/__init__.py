"""Benchmarks and measurements on top of memformer; run from the checkout."""
