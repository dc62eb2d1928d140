"""Detectors of others: recognised, given our input and head, checked, and written as a model."""
