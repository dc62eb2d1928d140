"""Where live frames come from: the shared-memory channel that a camera fills and others read."""
