"""Nodes for fault injection: a camera and a detector with faults, a subscriber that is too slow."""
