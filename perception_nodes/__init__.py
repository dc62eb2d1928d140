"""Real-time object detection for vehicle cameras on ROS 2, every frame accounted for."""

__version__ = "0.1.0"
