"""Recorded drives in: mcap, sqlite3, ROS 1, video, images, synthetic; damage is read past."""
