"""A node of which several run: one works, the others are ready to take its place."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from perception_nodes.core.frame import FrameRecord, RecordKind
from perception_nodes.nodes.base import PerceptionNode
from perception_nodes.nodes.guard import WatchdogGuard
from perception_nodes.transport import channels
from perception_nodes.transport.journal import Journal
from perception_nodes.transport.lease import Lease
from perception_nodes.watchdog.faults import FaultLimits, Starvation

TICK_NS = 8_000_000
"""How often a standby looks whether the other one hangs; of its end it knows at once."""
DISCOVERY_NS = 1_000_000_000
"""A process that has just started waits for so long at most until who listened to its predecessor
has found it: before, it would publish to nobody."""
LONG_NS = 3_000_000_000
"""Patience for what is done once and may take long."""


@dataclass(frozen=True)
class Seat:
    """A role at one camera.

    Attributes:
        camera: its name.
        records: what the watchdog is told of its frames.
        lease: of the role.
    """

    camera: str
    records: channels.NumberedRecords
    lease: Lease


class RedundantNode(PerceptionNode):
    """Works while it holds the leases of its role; until then it tries to get them.

    Subclasses open what they work with, call `join`, and fill in `work` and `take_over`.

    Attributes:
        seats: one a camera; `records` and `lease` are the first one's, which all who are equal to
            us ask for first.
    """

    role = ""
    speaks_for_watchdog = False
    seats: tuple[Seat, ...] = ()

    @property
    def records(self) -> channels.NumberedRecords:
        """Of the first camera, mostly the only one."""
        return self.seats[0].records

    @property
    def lease(self) -> Lease:
        """Of the first camera, mostly the only one."""
        return self.seats[0].lease

    def work(self) -> None:
        """Wait a moment for work and do it; called in a loop by the one that holds the lease."""

    def listeners(self) -> int:
        """Subscribers of what this role publishes."""
        return 0

    def take_over(self) -> None:
        """We are to work from now on; the leases' notes tell where the predecessor stood."""

    def join(self, patience_ns: int, cameras: Sequence[str] = ()) -> None:
        """Join the channels of the role.

        Args:
            patience_ns: how long we may be silent before we are taken for hung.
            cameras: where it is not only `camera` of the settings.
        """
        self.seats = tuple(
            Seat(
                camera,
                channels.NumberedRecords(
                    self.endpoint, camera, self.role, patience_ns, Journal(camera, self.role)
                ),
                Lease(camera, self.role),
            )
            for camera in cameras or (self.settings.camera,)
        )
        self._working = False
        self._takeovers: list[FrameRecord] = []
        self._guard = WatchdogGuard(self)
        self._joined_ns = time.monotonic_ns()
        self._starvation = Starvation(FaultLimits())
        self._judge_from_ns = 0

    def step(self) -> None:
        """Work, or wait to be needed; say that we are alive."""
        self.sign()
        if self._working:
            self.work()
        else:
            self._stand_by()
        for seat in self.seats:
            seat.records.heartbeat()
        self._guard.update(self.speaks_for_watchdog and self._working)

    def sign(self) -> None:
        """Tell the standby that we are alive; at least once a frame."""
        for seat in self.seats:
            if seat.lease.held:
                seat.lease.sign(seat.records.patience_ns)

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
        for seat in self.seats:
            seat.records.patience_ns = patience_ns
            seat.records.send(FrameRecord(kind=RecordKind.HEARTBEAT))
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
        if not all(self._acquire(seat, now_ns) for seat in self.seats):
            return
        self._working = True
        self.take_over()
        for takeover in self._takeovers:
            if takeover.predecessor:
                self.get_logger().warning(takeover.reason.decode())
        self._takeovers.clear()

    def _acquire(self, seat: Seat, now_ns: int) -> bool:
        """Whether a camera's lease is ours; the kernel frees a dead holder's within microseconds.

        So who has the first one has all, unless another graph has a camera of the same name.
        """
        if seat.lease.held:
            return True
        takeover = seat.lease.acquire(seat.records.patience_ns)
        if takeover is None:
            if now_ns > self._judge_from_ns:
                seat.lease.kill_hung_holder()
            return False
        takeover.joined_ns = self._joined_ns
        seat.records.send(takeover)
        self._takeovers.append(takeover)
        return True

    def rest(self) -> None:
        """Let another one work."""
        self._working = False
        for seat in reversed(self.seats):
            seat.lease.release()
            seat.records.leave()

    def close(self) -> None:
        """Give the leases back."""
        for seat in reversed(self.seats):
            seat.lease.close()
        self.seats = ()
