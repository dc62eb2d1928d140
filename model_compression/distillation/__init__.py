"""Training of the `open` family: maps of a road detector of Intel's and soft labels teach it."""
