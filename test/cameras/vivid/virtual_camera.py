"""The virtual camera of the kernel, with the misbehaviour of its driver."""

import os
from contextlib import contextmanager
from pathlib import Path

from perception_nodes.cameras import v4l2_kernel as kernel

DEVICE, SECOND = "/dev/video0", "/dev/video1"
DRIVER = Path("/sys/bus/platform/drivers/vivid")
HDMI = 3
DROPPED, DAMAGED = "Percentage of Dropped Buffers", "Inject V4L2_BUF_FLAG_ERROR"


def control(name, value=None):
    """Set one of the first camera's controls by its name, or read it."""
    descriptor = kernel.open_device(DEVICE)
    try:
        entry = kernel.QueryControl(id=kernel.CTRL_FLAG_NEXT_CTRL)
        while True:
            kernel.call(descriptor, kernel.QUERYCTRL, entry)
            if entry.name.decode() == name:
                setting = kernel.Control(entry.id, value or 0)
                kernel.call(descriptor, kernel.G_CTRL if value is None else kernel.S_CTRL, setting)
                return int(setting.value)
            entry = kernel.QueryControl(id=entry.id | kernel.CTRL_FLAG_NEXT_CTRL)
    finally:
        os.close(descriptor)


@contextmanager
def unplugged():
    """Without the first camera."""
    (DRIVER / "unbind").write_text("vivid.0")
    try:
        yield
    finally:
        (DRIVER / "bind").write_text("vivid.0")
