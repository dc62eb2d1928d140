"""Readers of recorded drives: mcap, sqlite3, ROS 1, video, images, synthetic; damage is skipped."""
