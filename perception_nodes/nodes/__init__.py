"""ROS 2 nodes: thin adapters, the only place that imports rclpy."""

import gc

# Imported objects stay. Without this, the garbage collector would look through them again and
# again, for a tenth of a node's start.
gc.set_threshold(100_000)
