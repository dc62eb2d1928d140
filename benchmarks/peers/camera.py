"""The camera of the benchmark: publishes prepared frames, each with the time at which it was due.

It needs rclpy alone, so that it runs in the environment of any detector. It prints a line for each
frame, `sent STAMP TIME` in nanoseconds, and goes on until it is asked to end.
"""

import argparse
import json
import mmap
import os
import struct
import time
from contextlib import suppress
from math import ceil
from pathlib import Path

PREPARE_NS = 8_000_000
SPIN_NS = 300_000


def stamped(message: bytes, stamp_ns: int) -> bytes:
    """A serialized message that begins with a std_msgs/Header, with another stamp."""
    stamp = struct.pack(("<" if message[1] & 1 else ">") + "iI", *divmod(stamp_ns, 10**9))
    return b"".join((message[:4], stamp, message[12:]))


def sleep_until(due_ns: int) -> None:
    """Sleep, and at the end wait busily: a sleep is less exact."""
    delay_ns = due_ns - time.time_ns()
    if delay_ns > SPIN_NS:
        time.sleep((delay_ns - SPIN_NS) / 1e9)
    while time.time_ns() < due_ns:
        pass


def plain_lens(width: int, height: int, info_type):
    """A CameraInfo without distortion, for a drive that has none."""
    info = info_type()
    info.header.frame_id = "camera"
    info.width, info.height, info.distortion_model = width, height, "plumb_bob"
    focal, x, y = float(width), width / 2, height / 2
    info.d = [0.0] * 5
    info.k = [focal, 0.0, x, 0.0, focal, y, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [focal, 0.0, x, 0.0, 0.0, focal, y, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def main() -> None:
    """Publish until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("frames", type=Path, help="folder made by frames.py")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--hz", type=float, required=True)
    parser.add_argument("--priority", type=int, default=0, help="SCHED_FIFO; 0 for none")
    given = parser.parse_args()
    if given.priority:  # before the middleware has threads
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(given.priority))

    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.qos import QoSProfile
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import CameraInfo, Image

    about = json.loads((given.frames / "about.json").read_text())
    kept = (given.frames / "info.bin").read_bytes()
    lens = plain_lens(about["width"], about["height"], CameraInfo)
    info = kept or serialize_message(lens)
    with (given.frames / "frames.bin").open("rb") as file:
        pixels = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    rclpy.init()
    node = rclpy.create_node("peers_camera")
    images = node.create_publisher(Image, given.topic, QoSProfile(depth=5))
    beside = f"{given.topic.rpartition('/')[0]}/camera_info"
    infos = node.create_publisher(CameraInfo, beside, QoSProfile(depth=5))
    places, period_ns = about["places"], 1e9 / given.hz
    first_ns, number = time.time_ns() + 100_000_000, 0
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        while rclpy.ok():
            due_ns = first_ns + round(number * period_ns)
            sleep_until(due_ns - PREPARE_NS)
            begin, end = places[number % len(places)]
            image = stamped(pixels[begin:end], due_ns)
            infos.publish(stamped(info, due_ns))
            sleep_until(due_ns)
            sent_ns = time.time_ns()
            images.publish(image)
            print("sent", due_ns, sent_ns, flush=True)
            # A camera that cannot keep up leaves frames out; what it sends is not older for that.
            number = max(number + 1, ceil((time.time_ns() - first_ns) / period_ns))


if __name__ == "__main__":
    main()
