"""Recorded drives in, detections and reports out: runs with no ROS installed."""
