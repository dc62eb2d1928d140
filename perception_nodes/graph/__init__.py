"""The graph of nodes: what runs, with which parameters, and who starts and restarts it."""
