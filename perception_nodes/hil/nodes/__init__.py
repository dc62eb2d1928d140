"""Nodes that only fault injection needs: a camera with faults, a subscriber that is too slow."""
