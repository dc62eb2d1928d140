"""Messages taken into memory that is used again: the bytes that were sent, and their numbers."""

import numpy as np
import pytest
from observe import until
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from perception_nodes.core.frame import ImageView
from perception_nodes.nodes.serialized import SerializedReader
from perception_nodes.transport.cdr_writer import write_image

pytestmark = [pytest.mark.ros]


@pytest.fixture
def ends(recorder, closed):
    subscription = recorder.node.create_subscription(Image, "image", lambda _: None, 2)
    reader = closed(SerializedReader(subscription))
    publisher = recorder.node.create_publisher(Image, "image", QoSProfile(depth=2))
    until(lambda: publisher.get_subscription_count() and subscription.get_publisher_count())
    return publisher, reader


def taken_by(reader):
    while (taken := reader.take()) is None:  # for as long as a test may take
        reader.wait(100)
    return taken


def test_foreign_bytes_arrive_as_they_were_sent(ends):
    """Larger and smaller ones in turn, damaged ones among them."""
    publisher, reader = ends
    random = np.random.default_rng(0)
    for number in range(60):
        height = int(random.integers(1, 400))
        pixels = random.integers(0, 256, (height, 500, 3), np.uint8)
        message = bytearray(write_image(ImageView.of_pixels(pixels)))
        for place in random.integers(0, 60, number % 4):
            message[place] = random.integers(256)
        sent = bytes(message[: random.integers(4, len(message))] if number % 5 == 4 else message)
        publisher.publish(sent)
        assert bytes(taken_by(reader).data) == sent
    reader.wait(1)  # which ends without a message
    assert reader.take() is None


def test_two_messages_are_there_at_once(ends):
    publisher, reader = ends
    messages = [write_image(ImageView.of_pixels(np.full((2, 2, 3), n, np.uint8))) for n in range(5)]
    before = None
    for number, message in enumerate(messages):
        publisher.publish(message)
        taken = taken_by(reader)
        if before is not None:
            assert bytes(before.data) == messages[number - 1]
            assert before.publisher == taken.publisher and before.number is not None
            assert taken.number == before.number + 1
        before = taken
