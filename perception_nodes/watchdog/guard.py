"""Watches the watchdog: whether it is there, and why not."""

from perception_nodes.core.frame import FrameRecord, RecordKind
from perception_nodes.system.processes import open_process
from perception_nodes.transport.shm import Reader
from perception_nodes.watchdog.liveness import Roster

ROLE = "watchdog"
PERIOD_NS = 20_000_000


class WatchdogGuard:
    """Judges the watchdog by its heartbeats, and ends one that hangs."""

    def __init__(self, heartbeats: Reader[FrameRecord], now_ns: int) -> None:
        """Listen to its heartbeats.

        Args:
            heartbeats: the watchdog's channel of records.
            now_ns: CLOCK_MONOTONIC.
        """
        self._heartbeats = heartbeats
        self._roster = Roster({ROLE: 1}, open_process)
        self._known = False
        self._judged_ns = now_ns
        self._gone = ""

    def update(self, now_ns: int, patience_ns: int) -> str:
        """Look after it; to be called every few milliseconds.

        Args:
            now_ns: CLOCK_MONOTONIC.
            patience_ns: how long we may be busy ourselves; after more we judge nobody's silence.

        Returns:
            Why it is gone; empty while it is there, was never heard of, or stopped in good order.
        """
        if now_ns - self._judged_ns < PERIOD_NS:
            return self._gone
        if now_ns - self._judged_ns > patience_ns:
            self._roster.postpone(now_ns)
        self._judged_ns = now_ns
        for record in self._heartbeats.records():
            self._roster.hear(ROLE, record)
            self._known = record.kind != RecordKind.LEFT
        self._roster.update(now_ns)
        self._roster.end_hung()
        missing = self._known and not self._roster.present(ROLE)
        self._gone = self._roster.faults()[0].text if missing else ""
        return self._gone
