"""Records as the processes of a graph send them to the ledger."""

from perception_nodes.core.frame import FrameRecord, FrameStatus, RecordKind
from perception_nodes.core.records import Takeover

TIMEOUT_NS = 1_000
DETECTOR = 7
FIRST_NS = 10
"""When a frame of number 0 came, if nothing else is said; each next one came 1 ns later."""
OK, LATE, SKIPPED_LATE, SUPERSEDED, DEGRADED, FAILED = FrameStatus


def entry(sequence, process=1, ingested_ns=None, sent_ns=0):
    return FrameRecord(
        kind=RecordKind.ENTERED,
        sequence=sequence,
        incarnation=process,
        ingested_ns=FIRST_NS + sequence if ingested_ns is None else ingested_ns,
        sent_ns=sent_ns,
    )


def outcome(
    sequence,
    process=1,
    status=OK,
    reached_detector=True,
    ingested_ns=None,
    sent_ns=1,
    detector=DETECTOR,
):
    record = entry(sequence, process, ingested_ns, sent_ns)
    record.kind, record.status = RecordKind.OUTCOME, status
    record.preprocessed_ns = 1 if reached_detector else 0
    record.process = record.sender = detector if reached_detector else process
    return record


def takeover(
    held=(0, 0), reason=b"", joined_ns=0, sent_ns=1, detector=DETECTOR, predecessor=0, newest_ns=0
):
    """Of a detector where it receives frames, since `joined_ns`; of preprocessing where not."""
    record = Takeover(reason=reason, joined_ns=joined_ns)
    record.held_incarnation, record.held_sequence = held
    record.process = record.sender = detector
    record.predecessor = record.predecessor_sender = predecessor
    record.sent_ns, record.newest_ns = sent_ns, newest_ns
    return record


def key_of(record):
    return (record.incarnation, record.sequence)


def copy(record):
    return type(record).from_buffer_copy(record)
