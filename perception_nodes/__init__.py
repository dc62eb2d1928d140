"""Real-time object detection for vehicle cameras on ROS 2, every frame accounted for."""

import os

# ONNX Runtime's wheels have telemetry, which writes a device id and may send usage data. It is read
# when the runtime is imported, by whichever module of ours does so.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# pydantic would look for plugins among all installed packages: 20 ms of each process's start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
