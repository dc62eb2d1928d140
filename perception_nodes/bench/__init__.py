"""Benchmarks, as commands of the product."""
