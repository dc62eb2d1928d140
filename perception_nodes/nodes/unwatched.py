"""Health and the safe-stop request while no watchdog works: UNSAFE, and the vehicle is to stop."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from perception_interfaces.msg import Health as HealthMessage
from perception_interfaces.msg import Protected
from std_msgs.msg import Bool

from perception_nodes.core.health import HealthMode
from perception_nodes.graph.topics import HEALTH, protected
from perception_nodes.nodes.base import LATCHED, R
from perception_nodes.nodes.protected_topic import PROTECTED, ProtectedTopic
from perception_nodes.transport.lease import Lease
from perception_nodes.watchdog.book import KeptCounts
from perception_nodes.watchdog.guard import ROLE
from perception_nodes.watchdog.health import phase_of

OTHERS = ("detector", "preprocess")


class UnwatchedTopics:
    """The watchdog's topics, for a process that knows that no watchdog works."""

    def __init__(self, node: Any, cameras: Sequence[str]) -> None:
        """Announce the topics; nothing is published yet.

        What is to be said is opened here: while we speak, perhaps no descriptor is left.
        """
        self._node, settings = node, node.settings
        self._owned = ExitStack()
        topics = [settings.topic_of(HEALTH, camera) for camera in cameras]
        self._topics = [self._open(HealthMessage, topic) for topic in topics]
        self._topics.append(self._open(Bool, settings.safe_stop_topic))
        self._counts = [self._own(KeptCounts(camera)) for camera in cameras]
        self._leases = [{r: self._own(Lease(camera, r)) for r in OTHERS} for camera in cameras]

    def _own(self, resource: R) -> R:
        self._owned.callback(resource.close)
        return resource

    def _open(self, kind: type, topic: str) -> ProtectedTopic:
        create = self._node.create_publisher
        plain = create(kind, topic, LATCHED)
        return self._own(ProtectedTopic(plain, create(Protected, protected(topic), PROTECTED)))

    @property
    def listeners(self) -> int:
        """Subscribers to all topics."""
        return sum(topic.listeners for topic in self._topics)

    def publish(self, cause: str) -> None:
        """Publish what is known: who is missing, and how many frames have been reported."""
        *healths, stops = self._topics
        stops.publish_state(Bool(data=True))
        unsafe, stamp = HealthMode.UNSAFE, self._node.get_clock().now().to_msg()
        for health, of_camera, leases in zip(healths, self._counts, self._leases, strict=True):
            kept = of_camera.read()
            # Without a descriptor left we see no holder; its signs of life tell then.
            missing = [
                role
                for role, lease in leases.items()
                if not lease.is_taken and lease.patient_until_ns < time.monotonic_ns()
            ]
            counts = {status.name.lower(): number for status, number in kept.items()}
            health.publish_state(
                HealthMessage(
                    stamp=stamp,
                    mode=unsafe,
                    previous_mode=unsafe,
                    cause=cause,
                    faults=[cause],
                    silent_processes=[ROLE, *missing],
                    frames_in=sum(counts.values()),
                    phase=phase_of(kept),
                    **counts,
                )
            )

    def withdraw(self) -> None:
        """Take back the latched messages, which late subscribers would still get."""
        for topic in self._topics:
            topic.publishers = tuple(map(self._renewed, topic.publishers))

    def _renewed(self, publisher: Any) -> Any:
        facts = publisher.msg_type, publisher.topic_name, publisher.qos_profile
        self._node.destroy_publisher(publisher)
        return self._node.create_publisher(*facts)

    def close(self) -> None:
        """Take back the topics."""
        self._owned.close()
        for topic in self._topics:
            for publisher in topic.publishers:
                self._node.destroy_publisher(publisher)
