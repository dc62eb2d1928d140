"""Nodes that only benchmarks need: a receiver, and one that only infers."""
