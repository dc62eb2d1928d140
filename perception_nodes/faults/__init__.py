"""Faults, and how they get into a running graph."""
