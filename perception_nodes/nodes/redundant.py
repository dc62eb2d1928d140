"""A node of which several run: one works, the others are ready to take its place."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from perception_nodes.core.faults import FaultLimits, Starvation
from perception_nodes.core.frame import FrameRecord, RecordKind
from perception_nodes.nodes.base import PerceptionNode
from perception_nodes.nodes.guard import WatchdogGuard
from perception_nodes.transport import channels
from perception_nodes.transport.journal import Journal
from perception_nodes.transport.lease import Lease

TICK_NS = 8_000_000
"""How often a standby looks whether the other one hangs; of its end it knows at once."""
DISCOVERY_NS = 1_000_000_000
"""A process that has just started waits for so long at most until who listened to its predecessor
has found it: before, it would publish to nobody."""
LONG_NS = 3_000_000_000
"""Patience for what is done once and may take long."""


class RedundantNode(PerceptionNode):
    """Works while it holds the lease of its role; until then it tries to get it.

    Subclasses open what they work with, call `join`, and fill in `work` and `take_over`.
    """

    role = ""
    speaks_for_watchdog = False
    lease: Lease | None = None

    def work(self) -> None:
        """Wait a moment for work and do it; called in a loop by the one that holds the lease."""

    def listeners(self) -> int:
        """Subscribers of what this role publishes."""
        return 0

    def take_over(self) -> None:
        """We are to work from now on; `self.lease.note` tells where the predecessor stood."""

    def join(self, patience_ns: int) -> None:
        """Join the channels of the role.

        Args:
            patience_ns: how long we may be silent before we are taken for hung.
        """
        camera = self.settings.camera
        journal = Journal(camera, self.role)
        self.records = channels.NumberedRecords(
            self.endpoint, camera, self.role, patience_ns, journal
        )
        self.lease = Lease(camera, self.role)
        self._guard = WatchdogGuard(self)
        self._joined_ns = time.monotonic_ns()
        self._starvation = Starvation(FaultLimits())
        self._judge_from_ns = 0

    def step(self) -> None:
        """Work, or wait to be needed; say that we are alive."""
        if self.lease.held:
            self.sign()
            self.work()
        else:
            self._stand_by()
        self.records.heartbeat()
        self._guard.update(self.speaks_for_watchdog and self.lease.held)

    def sign(self) -> None:
        """Tell the standby that we are alive; at least once a frame."""
        self.lease.sign(self.records.patience_ns)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """What is done in this context may take long, and we are not hung meanwhile."""
        usual_ns = self.records.patience_ns
        self._announce(LONG_NS)
        try:
            yield
        finally:
            self._announce(usual_ns)

    def _announce(self, patience_ns: int) -> None:
        self.records.patience_ns = patience_ns
        self.records.send(FrameRecord(kind=RecordKind.HEARTBEAT))
        if self.lease.held:
            self.sign()

    def _stand_by(self) -> None:
        due_ns = time.monotonic_ns() + TICK_NS
        self.lease.wait(TICK_NS / 1e6)
        now_ns = time.monotonic_ns()
        if self._starvation.update(due_ns, now_ns) is not None:
            # Whoever kept us from running may have kept the other one too.
            self._judge_from_ns = now_ns + self.records.patience_ns
        if now_ns < self._joined_ns + DISCOVERY_NS:
            if self.listeners() < self.lease.note.listeners:
                return
        takeover = self.lease.acquire(self.records.patience_ns)
        if takeover is None:
            if now_ns > self._judge_from_ns:
                self.lease.kill_hung_holder()
            return
        takeover.joined_ns = self._joined_ns
        self.records.send(takeover)
        self.take_over()
        if takeover.predecessor:
            self.get_logger().warning(takeover.reason.decode())

    def rest(self) -> None:
        """Let another one work."""
        self.lease.release()
        self.records.leave()

    def close(self) -> None:
        """Give the lease back."""
        if self.lease is not None:
            self.lease.close()
            self.lease = None
