"""ROS 2 nodes: thin adapters, the only place that imports rclpy."""

import gc

# What is imported stays, and a node collects between frames: to look through it again and again
# would be a tenth of its start.
gc.set_threshold(100_000)
