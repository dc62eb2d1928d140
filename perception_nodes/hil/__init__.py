"""Fault injection: the real graph, faults, an independent witness, and a verdict."""
