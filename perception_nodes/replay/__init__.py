"""Recorded drives in, detections and reports out: replay without ROS, and the demo with it."""
