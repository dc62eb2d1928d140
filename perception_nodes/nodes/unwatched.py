"""Health and the safe-stop request while no watchdog works: UNSAFE, and the vehicle is to stop."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from perception_interfaces.msg import Health as HealthMessage
from perception_interfaces.msg import Protected
from std_msgs.msg import Bool

from perception_nodes.core.health import HealthMode
from perception_nodes.graph.topics import HEALTH, protected
from perception_nodes.nodes.base import LATCHED
from perception_nodes.nodes.protected_topic import PROTECTED, ProtectedTopic
from perception_nodes.transport.lease import Lease
from perception_nodes.watchdog.book import kept_counts
from perception_nodes.watchdog.guard import ROLE
from perception_nodes.watchdog.health import phase_of

OTHERS = ("detector", "preprocess")


class UnwatchedTopics:
    """The watchdog's topics, for a process that knows that no watchdog works."""

    def __init__(self, node: Any, cameras: Sequence[str]) -> None:
        """Announce the topics; nothing is published yet."""
        self._node, self._cameras = node, cameras
        settings = node.settings
        self._healths = [
            self._open(HealthMessage, settings.topic_of(HEALTH, camera)) for camera in cameras
        ]
        self._stops = self._open(Bool, settings.safe_stop_topic)

    def _open(self, kind: type, topic: str) -> ProtectedTopic:
        create = self._node.create_publisher
        plain = create(kind, topic, LATCHED)
        return ProtectedTopic(plain, create(Protected, protected(topic), PROTECTED))

    @property
    def listeners(self) -> int:
        """Subscribers to all topics."""
        return sum(topic.listeners for topic in (*self._healths, self._stops))

    def publish(self, cause: str) -> None:
        """Publish what is known: who is missing, and how many frames have been reported."""
        self._stops.publish_state(Bool(data=True))
        unsafe, stamp = HealthMode.UNSAFE, self._node.get_clock().now().to_msg()
        for camera, health in zip(self._cameras, self._healths, strict=True):
            kept = kept_counts(camera)
            counts = {status.name.lower(): number for status, number in kept.items()}
            health.publish_state(
                HealthMessage(
                    stamp=stamp,
                    mode=unsafe,
                    previous_mode=unsafe,
                    cause=cause,
                    faults=[cause],
                    silent_processes=[ROLE, *_missing(camera)],
                    frames_in=sum(counts.values()),
                    phase=phase_of(kept),
                    **counts,
                )
            )

    def close(self) -> None:
        """Take back the latched messages, which late subscribers would still get."""
        for topic in (*self._healths, self._stops):
            topic.close()
            for publisher in topic.publishers:
                self._node.destroy_publisher(publisher)


def _missing(camera: str) -> list[str]:
    """The roles in which nobody works."""
    found = []
    for role in OTHERS:
        with closing(Lease(camera, role)) as lease:
            if not lease.is_taken:
                found.append(role)
    return found
