"""Undistort, letterbox and colour in one pass, from the camera's pixels into a slot."""
