"""Replays recorded drives without ROS: drives in, detections and reports out."""
