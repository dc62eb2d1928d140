"""Speaks for the watchdog while it is gone: the health is UNSAFE, and the vehicle is to stop."""

import os
import time
from typing import Any

from perception_nodes.core.failover import TURN_NS
from perception_nodes.core.records import WatchdogGone
from perception_nodes.nodes.base import Period
from perception_nodes.nodes.protected_topic import PERIOD_NS
from perception_nodes.nodes.unwatched import UnwatchedTopics
from perception_nodes.transport.lease import Lease
from perception_nodes.watchdog.guard import WatchdogGuard

VOICE = "voice"
"""The role of the process that speaks."""


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
        # Open the topics long before they are needed: listeners take time to discover them.
        self._topics = UnwatchedTopics(node, [seat.camera for seat in node.seats])

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
            self._topics.withdraw()
            self._voice.release()

    def close(self) -> None:
        """Stop looking."""
        self._topics.close()
        self._voice.close()
        self._guard.close()

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
        self._voice.note.listeners = self._topics.listeners
        self._topics.publish(self._cause)
