"""Cameras of tests: their frames go to a graph through shared memory or over DDS."""

import time
from contextlib import closing, contextmanager

from recorder import Recorder
from sensor_msgs.msg import Image


def send_frame(camera, number, pixels, name="", lost=0):
    """Send a frame, uint8 [height, width, 3] in BGR, through shared memory; returns its stamp."""
    sample = camera.loan()
    height, width, _ = pixels.shape
    stamp_ns = time.time_ns()
    sample.header.number, sample.header.lost = number, lost
    sample.header.describe(stamp_ns, "bgr8", width, height, 3 * width, 3 * width * height, name)
    sample.payload[:] = pixels.reshape(-1)
    camera.send(sample)
    return stamp_ns


def stamp_ns(message):
    """The stamp in a message's header."""
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


@contextmanager
def topic_camera():
    """A function that publishes a frame over DDS and returns its stamp."""
    with closing(Recorder("camera")) as camera:
        publisher = camera.node.create_publisher(Image, "/camera/image_raw", 5)

        def publish(pixels):
            height, width, _ = pixels.shape
            image = Image(height=height, width=width, encoding="bgr8", step=3 * width)
            image.data = pixels.tobytes()
            image.header.stamp = camera.node.get_clock().now().to_msg()
            publisher.publish(image)
            return stamp_ns(image)

        yield publish
