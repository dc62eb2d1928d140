"""Speaks for the watchdog while it is gone: the health is UNSAFE, and the vehicle is to stop."""

import os
import time
from contextlib import closing
from typing import Any

from perception_interfaces.msg import Health as HealthMessage
from perception_interfaces.msg import Protected
from std_msgs.msg import Bool

from perception_nodes.core.failover import TURN_NS
from perception_nodes.core.health import HealthMode
from perception_nodes.core.records import WatchdogGone
from perception_nodes.graph.topics import HEALTH, protected
from perception_nodes.nodes.base import LATCHED, Period
from perception_nodes.nodes.protected_topic import PERIOD_NS, PROTECTED, ProtectedTopic
from perception_nodes.transport.lease import Lease
from perception_nodes.watchdog.book import kept_counts
from perception_nodes.watchdog.guard import ROLE, WatchdogGuard
from perception_nodes.watchdog.health import phase_of

VOICE = "voice"
"""The role of the process that speaks."""
OTHERS = ("detector", "preprocess")


class WatchdogSubstitute:
    """Publishes the watchdog's topics in its place until there is one again.

    Each detector and each standby of one has a substitute. The right to speak is a lease, which
    passes to the next one when its holder dies or hangs. A new watchdog gives its first sign of
    life when all who listen to us have discovered it.
    """

    def __init__(self, node: Any) -> None:
        """Look for the watchdog's signs of life, for a `RedundantNode`."""
        self._node = node
        self._guard = WatchdogGuard(node.seats[0].camera, time.monotonic_ns())
        self._voice = Lease(node.seats[0].camera, VOICE)
        self._period = Period(PERIOD_NS)
        self._announce()

    def update(self, turn: int) -> None:
        """Look after the watchdog; to be called every few milliseconds.

        Args:
            turn: 0 for the process that is to speak, 1 for the one that speaks if the first does
                not.
        """
        now_ns, patience_ns = time.monotonic_ns(), self._node.records.patience_ns
        guard, voice = self._guard, self._voice
        guard.update(now_ns, patience_ns)
        if not guard.gone:
            self.fall_silent()
        elif voice.held:
            voice.sign(patience_ns)
            if self._period.due():
                guard.look(now_ns, patience_ns)
                if guard.gone:
                    self._speak()
        elif now_ns >= guard.gone_ns + turn * TURN_NS:
            # Another process may just have released the voice because there is a watchdog again.
            # Look before acquiring, since the watchdog is silent while the voice is taken; and once
            # more with the voice, since the watchdog may have come in between.
            guard.look(time.monotonic_ns(), patience_ns)
            if not guard.gone:
                return
            if voice.acquire(patience_ns):
                guard.look(time.monotonic_ns(), patience_ns)
                if guard.gone:
                    self._begin()
                else:
                    voice.release()
            elif now_ns > guard.judge_from_ns:
                voice.kill_hung_holder()

    def sign(self) -> None:
        """Give a sign of life if we speak."""
        if self._voice.held:
            self._voice.sign(self._node.records.patience_ns)

    def fall_silent(self) -> None:
        """Let others speak."""
        if self._voice.held:
            self._retract()
            self._announce()
            self._voice.release()

    def close(self) -> None:
        """Stop looking."""
        self._retract()
        self._voice.close()
        self._guard.close()

    def _announce(self) -> None:
        """Open the topics long before they are needed: listeners take time to discover them."""
        node, settings = self._node, self._node.settings
        self._healths = [
            self._open(HealthMessage, settings.topic_of(HEALTH, seat.camera)) for seat in node.seats
        ]
        self._stops = self._open(Bool, settings.safe_stop_topic)

    def _open(self, kind: type, topic: str) -> ProtectedTopic:
        create = self._node.create_publisher
        plain = create(kind, topic, LATCHED)
        return ProtectedTopic(plain, create(Protected, protected(topic), PROTECTED))

    def _retract(self) -> None:
        """Take back the latched messages, which late subscribers would still get."""
        for topic in (*self._healths, self._stops):
            topic.close()
            for publisher in topic.publishers:
                self._node.destroy_publisher(publisher)

    def _begin(self) -> None:
        self._speak()
        self._node.get_logger().error(self._cause)
        why = self._guard.gone.encode()
        for seat in self._node.seats:
            seat.records.send(WatchdogGone(cause=why))

    @property
    def _cause(self) -> str:
        us = f"{self._node.role} {os.getpid()}"
        return f"the watchdog is gone: {self._guard.gone}; {us} speaks in its place"

    def _speak(self) -> None:
        """Publish what we know: who is missing, and how many frames have been reported."""
        topics = (*self._healths, self._stops)
        self._voice.note.listeners = sum(topic.listeners for topic in topics)
        self._stops.publish_state(Bool(data=True))
        unsafe, stamp = HealthMode.UNSAFE, self._node.get_clock().now().to_msg()
        for seat, health in zip(self._node.seats, self._healths, strict=True):
            kept = kept_counts(seat.camera)
            counts = {status.name.lower(): number for status, number in kept.items()}
            health.publish_state(
                HealthMessage(
                    stamp=stamp,
                    mode=unsafe,
                    previous_mode=unsafe,
                    cause=self._cause,
                    faults=[self._cause],
                    silent_processes=[ROLE, *_missing(seat.camera)],
                    frames_in=sum(counts.values()),
                    phase=phase_of(kept),
                    **counts,
                )
            )


def _missing(camera: str) -> list[str]:
    """The roles in which nobody works."""
    found = []
    for role in OTHERS:
        with closing(Lease(camera, role)) as lease:
            if not lease.is_taken:
                found.append(role)
    return found
