"""Pure Python and NumPy: no ROS, no accelerator, no I/O."""
