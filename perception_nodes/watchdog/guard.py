"""Watches the watchdog itself."""

from perception_nodes.core.frame import FrameRecord, RecordKind
from perception_nodes.system.processes import open_process
from perception_nodes.transport.shm import Reader
from perception_nodes.watchdog.liveness import Roster

ROLE = "watchdog"
PERIOD_NS = 20_000_000


class WatchdogGuard:
    """Judges by heartbeats whether the watchdog is alive, and kills it if it hangs."""

    def __init__(self, heartbeats: Reader[FrameRecord], now_ns: int) -> None:
        """Start before the watchdog has been heard of.

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
        """Judge the watchdog; to be called every few milliseconds.

        Args:
            now_ns: CLOCK_MONOTONIC.
            patience_ns: if the last call is longer ago than this, we were held up ourselves, and
                the watchdog's silence counts from now on only.

        Returns:
            Why the watchdog is gone; empty if it is alive or has never been heard of. One that
            stops in good order is missed at the look after: when the whole graph stops, there is
            none.
        """
        if now_ns - self._judged_ns < PERIOD_NS:
            return self._gone
        if now_ns - self._judged_ns > patience_ns:
            self._roster.postpone(now_ns)
        self._judged_ns = now_ns
        left = False
        for record in self._heartbeats.records():
            self._roster.hear(ROLE, record)
            self._known, left = True, record.kind == RecordKind.LEFT
        self._roster.update(now_ns)
        self._roster.end_hung()
        missing = self._known and not left and not self._roster.present(ROLE)
        self._gone = self._roster.faults()[0].text if missing else ""
        return self._gone
