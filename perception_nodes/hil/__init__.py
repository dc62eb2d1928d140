"""Fault injection: the real graph, a fault, an independent witness, and a verdict."""
