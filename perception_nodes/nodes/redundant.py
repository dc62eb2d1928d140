"""A node that runs several times: one works, the others stand by to take its place."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from rclpy.lifecycle import State, TransitionCallbackReturn

from perception_nodes.core import failover
from perception_nodes.core.records import Heartbeat, Takeover
from perception_nodes.nodes.base import PerceptionNode
from perception_nodes.transport import channels
from perception_nodes.transport.lease import Lease


@dataclass(frozen=True)
class Seat:
    """What one camera's part of a role needs.

    Attributes:
        camera: its name.
        records: records for the watchdog about its frames.
        lease: the right to work in the role for this camera.
    """

    camera: str
    records: channels.NumberedRecords
    lease: Lease


class RedundantNode(PerceptionNode):
    """Works while it holds the leases of its role; until then it tries to get them.

    Subclasses open what they work with, call `join`, and fill in `work` and `take_over`.

    Attributes:
        role: name of the role.
        receives_slots: whether a standby also receives the frames that preprocessing sends.
        seats: one for each camera. `records` and `lease` are those of the first camera, whose lease
            all processes of the role try to get first.
    """

    role = ""
    receives_slots = False
    seats: tuple[Seat, ...] = ()

    def __init__(self, name: str) -> None:
        """Begin to number records from 0."""
        super().__init__(name)
        # The watchdog sees the same process when we are configured again.
        self._record_numbers: defaultdict[str, Iterator[int]] = defaultdict(count)

    @property
    def records(self) -> channels.NumberedRecords:
        """Records of the first camera."""
        return self.seats[0].records

    @property
    def lease(self) -> Lease:
        """Lease of the first camera."""
        return self.seats[0].lease

    def work(self) -> None:
        """Wait a moment for work and do it; called in a loop while we hold the leases."""

    def listeners(self) -> int:
        """How many subscribers there are to what this role publishes."""
        return 0

    def take_over(self, died: bool) -> None:
        """Prepare to work from now on; the leases' notes say how far the predecessor got.

        Args:
            died: whether there was a predecessor that did not stop in good order.
        """

    def join(self, patience_ns: int, cameras: Sequence[str] = ()) -> None:
        """Join the channels of the role.

        Args:
            patience_ns: how long we may be silent before we are taken for hung.
            cameras: all cameras; by default the only one is `camera` of the settings.
        """
        seats = []
        for camera in cameras or (self.settings.camera,):
            facts = camera, self.role, patience_ns, self._record_numbers[camera]
            records = channels.NumberedRecords(self.endpoint, *facts)
            seats.append(Seat(camera, records, Lease(camera, self.role)))
        self.seats = tuple(seats)
        self._working = False
        self._takeovers: list[Takeover] = []
        self._joined_ns = time.monotonic_ns()
        self._judge_from_ns = 0

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Tell the watchdog that signs of life are to be expected from now on."""
        self.sign()
        for seat in self.seats:
            seat.records.send(Heartbeat())
        return super().on_activate(state)

    def begin_real_time(self) -> None:
        """Make the settings; the garbage collector then looks at every object."""
        with self.busy():
            super().begin_real_time()

    def step(self) -> None:
        """Work, or wait to be needed; say that we are alive."""
        self.sign()
        if self._working:
            self.work()
        else:
            self._stand_by()

    def sign(self) -> None:
        """Show the watchdog and the standby that we are alive; to be called for each frame."""
        for seat in self.seats:
            seat.records.sign()
            if seat.lease.held:
                seat.lease.sign(seat.records.patience_ns)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While in this context we may be silent for longer without being taken for hung.

        We have no real-time priority either, since no frame that waits could be in time.
        """
        usual_ns = self.records.patience_ns
        self._announce(failover.LONG_NS)
        try:
            with self.realtime.leisurely():
                yield
        finally:
            self._announce(usual_ns)

    def _announce(self, patience_ns: int) -> None:
        if not self.active:
            return  # nobody expects signs of life yet, and the first one would raise expectations
        for seat in self.seats:
            seat.records.patience_ns = patience_ns
        self.sign()

    def _stand_by(self) -> None:
        now_ns = time.monotonic_ns()
        # Before that, the working process cannot be found to hang.
        rest_ns = self.lease.patient_until_ns - now_ns
        wait_ns = min(rest_ns, failover.SIGN_SHARE * self.records.patience_ns)
        wait_ns = max(wait_ns, failover.STANDBY_LOOK_NS)
        due_ns = now_ns + wait_ns
        self.lease.wait(wait_ns / 1e6)
        now_ns = time.monotonic_ns()
        if now_ns - due_ns > failover.STARVED_NS:
            # What kept us from running may have kept the other process from running too.
            self._judge_from_ns = now_ns + self.records.patience_ns
        if now_ns < self._joined_ns + failover.DISCOVERY_NS:
            if self.listeners() < self.lease.listeners:
                return
        if not all(self._acquire(seat, now_ns) for seat in self.seats):
            return
        self._working = True
        self.take_over(any(takeover.predecessor for takeover in self._takeovers))
        for takeover in self._takeovers:
            if takeover.predecessor:
                self.get_logger().warning(takeover.reason.decode())
        self._takeovers.clear()

    def _acquire(self, seat: Seat, now_ns: int) -> bool:
        """Try to get a camera's lease; return whether it is ours.

        Whoever has the first camera's lease gets all of them, since the kernel frees those of a
        dead process within microseconds, unless another graph has a camera of the same name.
        """
        if seat.lease.held:
            return True
        if (takeover := seat.lease.acquire(seat.records.patience_ns)) is None:
            if now_ns > self._judge_from_ns:
                seat.lease.kill_hung_holder()
            return False
        if self.receives_slots:
            takeover.joined_ns = self._joined_ns
        seat.records.send(takeover)
        self._takeovers.append(takeover)
        return True

    def rest(self) -> None:
        """Stop working, so that another process can."""
        self._working = False
        for seat in reversed(self.seats):
            if seat.lease.release():
                seat.records.leave()

    def close(self) -> None:
        """Give the leases back."""
        for seat in reversed(self.seats):
            seat.lease.close()
            seat.records.close()
        self.seats = ()
