"""What is put into a running graph: scenarios, injection, the remote unit, the lossy network."""
