"""Decides which of several equal processes works: the holder of a lock that the kernel frees.

The locked file is in shared memory; its content is what the next holder must know.
"""

import ctypes
import fcntl
import os
import time

from perception_nodes.core.frame import MAY_BE_OUT, FrameRecord
from perception_nodes.core.records import Takeover
from perception_nodes.core.structures import fields
from perception_nodes.system.hanging import HangJudge
from perception_nodes.system.life import graph_life, own_incarnation
from perception_nodes.system.processes import Process, own_time_ns, runs_at_once
from perception_nodes.transport.domain import open_ours, own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, Mapped

EARLIER_STREAMS = 8
"""The largest number of senders of a channel."""
NOT_ENTERED = 2**64 - 1
WORKING, PUBLISHING = 1, 2
"""Values of `LeaseNote.unended`; 0 if no frame is held."""


class StreamPosition(ctypes.Structure):
    """The last number that was taken from a numbered stream."""

    _fields_ = fields("uint64 source, number")


class LeaseNote(ctypes.Structure):
    """What the holder writes for its successor.

    `process` is the holder's process number, 0 if it stopped in good order, `holder` its
    incarnation. It gave its last sign
    of life at `alive_ns`, may be silent for `patience_ns`, and had used `spent_ns` of processor
    time by then. `incarnation`, `sequence` and `ingested_ns` identify the last frame that it
    took; `unended` is set until it has finished that frame. `number` is the last frame number that
    it took from the numbered stream `source`, and `entered_number` the last one whose record,
    `entered`, it has made. `earlier` is a ring of the streams before that one, whose last frames
    may still wait for a successor; `switches` counts them. `listeners` is the number of subscribers
    to its results. `life` is the life of its graph: nothing is taken over from a holder in another
    life.
    """

    _fields_ = [
        *fields("int64 alive_ns, patience_ns, spent_ns, ingested_ns; uint64 sequence, number"),
        *fields("uint64 entered_number, listeners, life, source, switches"),
        ("earlier", StreamPosition * EARLIER_STREAMS),
        *fields("uint64 unended, incarnation, holder, process"),
        ("entered", FrameRecord),
    ]


class Lease:
    """The right of a process to work in a role for a camera."""

    def __init__(self, camera: str, role: str) -> None:
        """Open the file that all processes of the role share."""
        self._role, self._life = role, graph_life()
        self._mapped = Mapped(SHM_FOLDER / f"{own_prefix()}{camera}_{role}.lease", LeaseNote)
        self.note = self._mapped.value
        self.held = False
        self._holder: Process | None = None
        self._killed = 0
        self._judge = HangJudge()

    @property
    def is_of_this_life(self) -> bool:
        """Whether a process of this graph has held it."""
        return bool(self.note.life == self._life)

    @property
    def is_taken(self) -> bool:
        """Whether a living process of this graph holds it."""
        return self.is_of_this_life and self._living_holder() is not None

    @property
    def listeners(self) -> int:
        """Subscribers to the results of the predecessor, if it was one in this graph."""
        return int(self.note.listeners) if self.is_of_this_life else 0

    @property
    def patient_until_ns(self) -> int:
        """Until when the holder may be silent; without a holder, a time that has passed."""
        note = self.note
        return note.alive_ns + note.patience_ns if note.process else 0

    def wait(self, timeout_ms: float) -> None:
        """Wait until the holder ends, or until the timeout; without a holder, until the timeout."""
        if (holder := self._living_holder()) is None:
            time.sleep(timeout_ms / 1e3)
        else:
            holder.wait(timeout_ms)

    def acquire(self, patience_ns: int) -> Takeover | None:
        """Take the right to work, if no process has it.

        Args:
            patience_ns: how long we may be silent from then on.

        Returns:
            The record of the takeover, None if another process works.
        """
        try:
            fcntl.flock(self._mapped.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        note, now_ns = self.note, time.monotonic_ns()
        if not self.is_of_this_life:
            self._mapped.clear()
            note.life = self._life
        record = Takeover(predecessor=note.process, newest_ns=note.ingested_ns)
        if note.process:
            record.predecessor_sender = note.holder
            how = "hung and was killed" if self._killed == note.process else "died"
            record.reason = (
                f"{self._role} {note.process} {how}; {os.getpid()} took over "
                f"{(now_ns - note.alive_ns) / 1e6:.0f} ms after its last sign of life"
            ).encode()
            if note.unended:
                record.held_incarnation, record.held_sequence = note.incarnation, note.sequence
                record.reason += MAY_BE_OUT if note.unended == PUBLISHING else b""
        self._killed = 0
        note.unended, note.process, note.holder = 0, os.getpid(), own_incarnation()
        self.held = True
        self.sign(patience_ns)
        return record

    def sign(self, patience_ns: int) -> None:
        """Give a sign of life to the processes that wait."""
        note = self.note
        note.patience_ns, note.spent_ns = patience_ns, own_time_ns()
        note.alive_ns = time.monotonic_ns()

    def begin(self, incarnation: int, sequence: int, ingested_ns: int) -> None:
        """Note the frame that we start to work on, so that no successor dies of it too."""
        note = self.note
        note.incarnation, note.sequence = incarnation, sequence
        note.ingested_ns, note.unended = ingested_ns, WORKING

    def take(self, source: int, number: int) -> None:
        """Note the frame that we took from a numbered stream, before it can make us crash."""
        note = self.note
        if source != note.source:
            if note.source:
                ring = note.earlier
                ring[note.switches % EARLIER_STREAMS] = StreamPosition(note.source, note.number)
                note.switches += 1
            # We may be killed at any line: no number must be taken for one of another stream.
            note.source, note.entered_number = 0, NOT_ENTERED
        note.number = number
        note.source = source

    def taken(self) -> dict[int, int]:
        """The last number that was taken from each stream."""
        note = self.note
        first = note.switches  # begin with the oldest place of the ring
        positions = [note.earlier[(first + n) % EARLIER_STREAMS] for n in range(EARLIER_STREAMS)]
        taken = {int(each.source): int(each.number) for each in positions}
        taken[int(note.source)] = int(note.number)
        taken.pop(0, None)  # this place holds no stream
        return taken

    def enter(self, record: FrameRecord) -> None:
        """Note the record of the last frame taken, and that we work on it.

        To be called before the record is sent: the successor sends it again.
        """
        note = self.note
        note.entered = record
        self.begin(record.incarnation, record.sequence, record.ingested_ns)
        note.entered_number = note.number

    def publish(self) -> None:
        """Note that the frame's results may leave from now on."""
        self.note.unended = PUBLISHING

    def end(self) -> None:
        """Note that we have finished the frame."""
        self.note.unended = 0

    def kill_hung_holder(self) -> None:
        """Kill the holder if it hangs; the kernel frees the lock when the process has ended."""
        note = self.note
        alive_ns, patience_ns, pid = note.alive_ns, note.patience_ns, note.process
        silent_ns = time.monotonic_ns() - alive_ns
        if silent_ns <= patience_ns or not pid or self._killed == pid:
            return
        if (holder := self._living_holder()) is None:
            return
        hung = self._judge.update(alive_ns, silent_ns, patience_ns, note.spent_ns, holder.look)
        if hung and not runs_at_once(self._judge.sleeps_on):
            self._judge.excuse()
            hung = False
        # The holder may have given a sign of life while we looked, or another process may hold the
        # lease. The open handle cannot come to mean another process.
        same = (note.alive_ns, note.process) == (alive_ns, holder.pid)
        if hung and same and holder.kill():
            self._killed = pid

    def release(self) -> bool:
        """Give up the right to work, if we have it.

        Returns:
            Whether we stop in good order. If a frame is still in hand, an error ends us; the
            successor closes the frame as if we had died of it.
        """
        in_order = not (self.held and self.note.unended)
        if self.held:
            if in_order:
                self.note.process = 0
            fcntl.flock(self._mapped.descriptor, fcntl.LOCK_UN)
            self.held = False
        return in_order

    def close(self) -> None:
        """Release it and close the file."""
        self.release()
        self._forget_holder()
        del self.note
        self._mapped.close()

    def _living_holder(self) -> Process | None:
        pid = self.note.process
        if self._holder is None or self._holder.pid != pid:
            self._forget_holder()
            self._holder = open_ours(pid) if pid else None
        if self._holder is not None and not self._holder.is_alive():
            self._forget_holder()  # another process may have its number
        return self._holder

    def _forget_holder(self) -> None:
        if self._holder is not None:
            self._holder.close()
            self._holder = None
