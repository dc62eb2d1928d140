"""Runs of the real graph: started, accounted, checked and shown."""
