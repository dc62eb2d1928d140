"""What the processes of a graph send to the watchdog beside frames: one struct for each kind."""

from perception_nodes.core.frame import REASON_BYTES, FrameRecord, FrameStatus, Record
from perception_nodes.core.structures import fields


class Takeover(Record):
    """`process` replaces `predecessor` in its role from now on; 0 if there was none.

    `predecessor_sender` is the incarnation of that process.

    `held_incarnation` and `held_sequence` identify the frame that the predecessor had begun and not
    ended; `newest_ns` is `ingested_ns` of the frame begun last in this role. `joined_ns` is when
    the sender began to receive slots; 0 for preprocessing, which sends them. `reason` says why the
    predecessor was replaced.
    """

    _fields_ = fields(
        "uint64 held_sequence; int64 newest_ns, joined_ns; uint64 held_incarnation, "
        f"predecessor_sender; uint32 predecessor; char reason[{REASON_BYTES}]"
    )


class Left(Record):
    """`process` has stopped in good order."""


class InputState(Record):
    """Preprocessing sends this once a second: why frames are missing, empty if none are."""

    _fields_ = fields(f"char trouble[{REASON_BYTES}]")


class Changed(Record):
    """Preprocessing sends this once when the camera's images become others: from what, to what."""

    _fields_ = fields(f"char change[{REASON_BYTES}]")


class WatchdogGone(Record):
    """For a watchdog that goes on: why the vehicle was asked to stop in its place."""

    _fields_ = fields(f"char cause[{REASON_BYTES}]")


class Heartbeat(Record):
    """A sign of life and nothing but that; further ones are in the process's journal."""


STRUCTS = (FrameRecord, FrameRecord, Takeover, Left, InputState, Changed, WatchdogGone, Heartbeat)
"""Structs by their kinds, see `RecordKind`. None is larger than a `FrameRecord`."""


STATUSES = frozenset(FrameStatus)


def mark(record: Record) -> None:
    """Set the kind of a record that is about to be sent; that of a frame is set already."""
    if type(record) is not FrameRecord:
        record.kind = STRUCTS.index(type(record))


def bounded(record: Record, now_ns: int) -> Record:
    """The record, with times that cannot be later than now, and a status that there is.

    One damaged number must neither hide what comes after it nor keep the watchdog from working.
    """
    record.sent_ns = min(record.sent_ns, now_ns)
    if isinstance(record, FrameRecord):
        record.ingested_ns = min(record.ingested_ns, record.sent_ns)
        if record.status not in STATUSES:
            record.status, record.reason = FrameStatus.FAILED, b"its record was damaged"
    elif isinstance(record, Takeover):
        record.newest_ns = min(record.newest_ns, record.sent_ns)
        record.joined_ns = min(record.joined_ns, record.sent_ns)
    return record


def as_sent(record: FrameRecord) -> Record:
    """The record as the struct of its kind, in the same memory; a damaged kind tells nothing."""
    kind = STRUCTS[record.kind] if record.kind < len(STRUCTS) else Heartbeat
    return record if kind is FrameRecord else kind.from_buffer(record)
