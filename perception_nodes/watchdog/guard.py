"""Watches the watchdog itself."""

from perception_nodes.core.failover import LOOK_NS
from perception_nodes.core.frame import Record
from perception_nodes.core.records import Left
from perception_nodes.system.processes import was_alive
from perception_nodes.transport.domain import open_ours
from perception_nodes.transport.lease import Lease
from perception_nodes.watchdog.liveness import Roster

ROLE = "watchdog"


class WatchdogGuard:
    """Judges by its lease whether the watchdog is alive, and kills it if it hangs.

    Attributes:
        gone: why it is gone; empty if it is alive or was never in this graph. If it stops in good
            order, it is missed only at the next look, which does not come when the whole graph
            stops.
        gone_ns: since when, CLOCK_MONOTONIC.
        judge_from_ns: until then a silent process may have been kept from running as we were.
    """

    def __init__(self, camera: str, now_ns: int) -> None:
        """Start before the watchdog has been looked at."""
        self._lease = Lease(camera, ROLE)
        self._roster = Roster({ROLE: 1}, open_ours)
        # Another process may have the number of one that is long dead, and be killed as hung.
        note, alive_ns = self._lease.note, int(self._lease.note.alive_ns)
        is_silent = now_ns > alive_ns + note.patience_ns
        is_another = is_silent and not was_alive(int(note.process), alive_ns)
        self._process, self._heard_ns = 0, alive_ns if is_another else 0
        self._roster.postpone(now_ns)
        self._judged_ns = now_ns
        self.gone, self.gone_ns, self.judge_from_ns = "", 0, 0

    def update(self, now_ns: int, patience_ns: int) -> None:
        """Look if the last look is a while ago; to be called every few milliseconds."""
        if now_ns - self._judged_ns >= LOOK_NS:
            self.look(now_ns, patience_ns)

    def look(self, now_ns: int, patience_ns: int) -> None:
        """Judge the watchdog now.

        Args:
            now_ns: CLOCK_MONOTONIC.
            patience_ns: if the last look is longer ago than this, we were held up ourselves, and
                the watchdog's silence counts from now on only.
        """
        if now_ns - self._judged_ns > patience_ns:
            self._roster.postpone(now_ns)
            self.judge_from_ns = now_ns + patience_ns
        self._judged_ns = now_ns
        if not self._lease.is_of_this_life:
            return
        note, before, heard_ns = self._lease.note, self._process, self._heard_ns
        self._process, self._heard_ns = int(note.process), int(note.alive_ns)
        if self._process and self._heard_ns != heard_ns:
            sign = Record(0, self._heard_ns, note.patience_ns, note.spent_ns, process=self._process)
            self._roster.hear(ROLE, sign)
        just_left = bool(before) and not self._process
        if just_left:
            self._roster.hear(ROLE, Left(process=before))
        self._roster.update(now_ns)
        self._roster.end_hung()
        missing = not self._roster.present(ROLE) and not just_left
        if missing and not self.gone:
            self.gone_ns = now_ns
        self.gone = self._roster.faults()[0].text if missing else ""

    def close(self) -> None:
        """Stop watching."""
        self._roster.close()
        self._lease.close()
