"""ROS 2 nodes: thin adapters, the only place that imports rclpy."""
