"""A camera's ROS topics: serialized images, of which several may be waiting."""

import time
import zlib
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.qos import QoSProfile, ReliabilityPolicy

from perception_nodes.graph.config import PreprocessSettings
from perception_nodes.nodes.base import PerceptionNode
from perception_nodes.nodes.image_transports import TRANSPORTS, image_topic

QUEUE = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)

Taken = tuple[bytes, dict[str, Any]]


def info_topic(topic: str) -> str:
    """The topic of a camera's CameraInfo, in the same namespace as its images."""
    base, separator, _ = topic.rpartition("/")
    return f"{base}{separator}camera_info"


class CallbackGate(CallbackGroup):
    """Callbacks that the executor does not run until the gate is open."""

    is_open = False

    def can_execute(self, entity: object) -> bool:
        """Whether it may run them."""
        return self.is_open

    def beginning_execution(self, entity: object) -> bool:
        """They need not wait for one another."""
        return True

    def ending_execution(self, entity: object) -> None:
        """Nothing to do."""


class ImageTopic:
    """A subscription that is matched from the start, but read only after it is opened.

    A standby that subscribed only when it takes over would save the copies until then, but
    discovery would take longer than the rest of the takeover.
    """

    def __init__(
        self,
        node: PerceptionNode,
        settings: PreprocessSettings,
        take: Callable[[bytes, int, int | None, int, bool], None],
    ) -> None:
        """Subscribe.

        Args:
            node: owns the subscription.
            settings: topic and transport.
            take: called with a frame's bytes, an identifier of its publisher (not 0), its number
                (None if the middleware does not number messages), CLOCK_MONOTONIC of its receipt in
                nanoseconds, and whether a newer frame is waiting.
        """
        transport = TRANSPORTS[settings.image_transport]
        self._take = take
        self._gate = CallbackGate()
        self._subscription = node.add_subscription(
            transport.message_class(),
            image_topic(settings.image_topic, settings.image_transport),
            self._on_image,
            QUEUE,
            group=self._gate,
        )
        self.read, self.copies = transport.read, transport.copies

    def open(self, is_open: bool) -> None:
        """Read from now on, or no longer."""
        self._gate.is_open = is_open

    def _on_image(self, data: bytes, info: dict[str, Any]) -> None:
        taken: Taken | None = (data, info)
        while taken is not None:
            data, info = taken
            received_ns = time.monotonic_ns()
            taken = self._take_waiting()
            publisher = zlib.crc32(bytes(info.get("publisher_gid", {}).get("data", b""))) | 1
            number = info["publication_sequence_number"]
            self._take(data, publisher, number, received_ns, taken is not None)

    def _take_waiting(self) -> Taken | None:
        handle = self._subscription.handle
        with handle:
            taken: Taken | None = handle.take_message(self._subscription.msg_type, True)
        return taken
