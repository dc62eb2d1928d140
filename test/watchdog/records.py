"""Records as the processes of a graph send them to the ledger."""

from perception_nodes.core.frame import FrameRecord, FrameStatus, RecordKind

TIMEOUT_NS = 1_000
OK, LATE, SKIPPED_LATE, SUPERSEDED, DEGRADED, FAILED = FrameStatus


def entry(sequence, process=1, ingested_ns=None, sent_ns=0):
    return FrameRecord(
        kind=RecordKind.ENTERED,
        sequence=sequence,
        ingest_process=process,
        ingested_ns=sequence if ingested_ns is None else ingested_ns,
        sent_ns=sent_ns,
    )


def outcome(sequence, process=1, status=OK, reached_detector=True, ingested_ns=None, sent_ns=1):
    record = entry(sequence, process, ingested_ns, sent_ns)
    record.kind, record.status = RecordKind.OUTCOME, status
    record.preprocessed_ns = 1 if reached_detector else 0
    return record


def takeover(begun=(0, 0), reason=b"detector 7 died", joined_ns=0, sent_ns=0):
    record = FrameRecord(kind=RecordKind.TAKEOVER, reason=reason, joined_ns=joined_ns)
    record.ingest_process, record.sequence = begun
    record.sent_ns = sent_ns
    return record


def key_of(record):
    return (record.ingest_process, record.sequence)


def copy(record):
    return FrameRecord.from_buffer_copy(record)
