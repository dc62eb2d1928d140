"""The accounting of frames: each that entered ends once, in = sum of outs + in flight."""

from collections import OrderedDict, deque
from collections.abc import Iterable

from perception_nodes.core.frame import FrameRecord, FrameStatus

Key = tuple[int, int]
"""(ingest process, sequence): names a frame, also where a process was replaced and counts anew."""

REMEMBERED_OUTCOMES = 4096


class Ledger:
    """Turns records of entries and outcomes, from several processes, into one report a frame.

    Within one process records keep their order. Across processes, an entry must be recorded
    before an outcome of the same frame; an outcome without an entry counts as both, so that a lost
    entry record loses no frame.
    """

    def __init__(self, outcome_timeout_ns: int) -> None:
        """Frames without an outcome for longer than the timeout are closed as failed."""
        self._outcome_timeout_ns = outcome_timeout_ns
        self._in_flight: OrderedDict[Key, FrameRecord] = OrderedDict()
        self._closed: set[Key] = set()
        self._closed_order: deque[Key] = deque()
        self.frames_in = 0
        self.counts = dict.fromkeys(FrameStatus, 0)
        self.repeated_outcomes = 0

    @property
    def in_flight(self) -> int:
        """Frames that entered and have not ended."""
        return len(self._in_flight)

    def enter(self, record: FrameRecord) -> list[FrameRecord]:
        """A frame came in.

        Returns:
            Reports of frames that this closes: those of an ingest process that was replaced.
        """
        key = _key(record)
        if key in self._in_flight or key in self._closed:
            return []
        orphans = [other for other in self._in_flight if other[0] != key[0]]
        closed = self._fail(orphans, "the process that took the frame in was replaced")
        self.frames_in += 1
        self._in_flight[key] = record
        return closed

    def finish(self, outcome: FrameRecord) -> list[FrameRecord]:
        """A frame ended.

        The detector takes frames in order and the newest first lets older ones go: the outcome of
        a frame that had reached the detector says that every older frame without one was
        superseded.

        Returns:
            Reports in the order of the frames: the superseded ones, then this frame's own.
        """
        key = _key(outcome)
        if key in self._closed:
            self.repeated_outcomes += 1
            return []
        if self._in_flight.pop(key, None) is None:
            self.frames_in += 1
        reports = []
        if outcome.preprocessed_ns:
            for other in [k for k in self._in_flight if k[0] == key[0] and k[1] < key[1]]:
                older = self._in_flight.pop(other)
                older.status = FrameStatus.SUPERSEDED
                older.reason = b"a newer frame took its place"
                reports.append(self._close(other, older))
        reports.append(self._close(key, outcome))
        return reports

    def expire(self, now_ns: int) -> list[FrameRecord]:
        """Close what has been without an outcome for too long.

        Args:
            now_ns: CLOCK_MONOTONIC.
        """
        oldest_ns = now_ns - self._outcome_timeout_ns
        overdue = [k for k, record in self._in_flight.items() if record.ingested_ns < oldest_ns]
        timeout_ms = self._outcome_timeout_ns / 1e6
        return self._fail(overdue, f"no outcome within {timeout_ms:.0f} ms")

    def close_all(self, reason: str) -> list[FrameRecord]:
        """Close every frame in flight as failed, where its holder is known to be gone."""
        return self._fail(list(self._in_flight), reason)

    def _fail(self, keys: Iterable[Key], reason: str) -> list[FrameRecord]:
        reports = []
        for key in keys:
            record = self._in_flight.pop(key)
            record.status = FrameStatus.FAILED
            record.reason = reason.encode()
            reports.append(self._close(key, record))
        return reports

    def _close(self, key: Key, record: FrameRecord) -> FrameRecord:
        self.counts[FrameStatus(record.status)] += 1
        self._closed.add(key)
        self._closed_order.append(key)
        if len(self._closed_order) > REMEMBERED_OUTCOMES:
            self._closed.discard(self._closed_order.popleft())
        return record


def _key(record: FrameRecord) -> Key:
    return (record.ingest_process, record.sequence)
