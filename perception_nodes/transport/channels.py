"""Names, headers and depths of the graph's shared-memory channels, for both ends."""

import os
import time
from collections.abc import Iterator
from itertools import count

from perception_nodes.core.frame import MAX_LOOKS, DetectionRecord, FrameHeader, FrameRecord, Record
from perception_nodes.core.records import Left, mark
from perception_nodes.system.life import own_incarnation
from perception_nodes.system.processes import own_time_ns
from perception_nodes.transport.journal import Journal
from perception_nodes.transport.shm import SPARE_SAMPLES, Endpoint, Reader, Writer

SLOT_DEPTH = 2
SLOT_SPARE = SPARE_SAMPLES + 2
"""Room for a page that shows frames: for one that waits and one that is looked at."""
RECORD_DEPTH = 1024
DETECTION_DEPTH = 64


def slot_writer(endpoint: Endpoint, camera: str, width: int, height: int) -> Writer[FrameHeader]:
    """The sending end of the slots that preprocessing fills for the detector.

    The pixels are BGR, width x height; 0 x 0 if they stay in the camera's channel.
    """
    return endpoint.writer(
        f"{camera}/slots", FrameHeader, width * height * 3, SLOT_DEPTH, spare=SLOT_SPARE
    )


def slot_reader(endpoint: Endpoint, camera: str, waiting: int | None = None) -> Reader[FrameHeader]:
    """The receiving end of `slot_writer`; for `waiting` see `Endpoint.reader`."""
    return endpoint.reader(f"{camera}/slots", FrameHeader, SLOT_DEPTH, waiting=waiting)


def look_writer(endpoint: Endpoint, camera: str, width: int, height: int) -> Writer[FrameHeader]:
    """The sending end of the slots that preprocessing fills with regions for second looks.

    Their pixels are BGR, width x height.
    """
    return endpoint.writer(f"{camera}/looks", FrameHeader, width * height * 3, MAX_LOOKS)


def look_reader(endpoint: Endpoint, camera: str) -> Reader[FrameHeader]:
    """The receiving end of `look_writer`."""
    return endpoint.reader(f"{camera}/looks", FrameHeader, MAX_LOOKS)


def request_writer(endpoint: Endpoint, camera: str) -> Writer[FrameRecord]:
    """The sending end of records with the looks that the detector wants to take at the next frame.

    They apply to a frame of the same source size.
    """
    return endpoint.writer(f"{camera}/regions", FrameRecord, 0, 1)


def request_reader(endpoint: Endpoint, camera: str) -> Reader[FrameRecord]:
    """The receiving end of `request_writer`, for preprocessing."""
    return endpoint.reader(f"{camera}/regions", FrameRecord, 1)


def record_writer(endpoint: Endpoint, camera: str, process: str) -> Writer[FrameRecord]:
    """The sending end of one process's records, which the watchdog's ledger reads."""
    return endpoint.writer(f"{camera}/records/{process}", FrameRecord, 0, RECORD_DEPTH)


class NumberedRecords:
    """Sends one process's records, numbered and dated, so that a lost one is noticed."""

    def __init__(
        self,
        endpoint: Endpoint,
        camera: str,
        role: str,
        patience_ns: int,
        numbers: Iterator[int] | None = None,
    ) -> None:
        """Join the process's channel, see `record_writer`; and begin its journal.

        Args:
            endpoint: this process's entry to shared memory.
            camera: camera whose frames this process works on.
            role: name of the process in the channel's name.
            patience_ns: how long this process may be silent before it counts as hung.
            numbers: numbers of the records, by default from 0. If this process has sent records
                before, they must go on behind those.
        """
        self._journal = Journal(camera, role)
        self._writer = record_writer(endpoint, camera, role)
        self._numbers = count() if numbers is None else numbers
        self._process, self._sender = os.getpid(), own_incarnation()
        self.patience_ns = patience_ns

    def send(self, record: Record) -> None:
        """Number a record and send it."""
        mark(record)
        record.record, record.process = next(self._numbers), self._process
        record.sender = self._sender
        record.patience_ns, record.spent_ns = self.patience_ns, own_time_ns()
        record.sent_ns = time.monotonic_ns()
        self._journal.append(record)
        self._writer.send_record(record)

    def sign(self) -> None:
        """Give a sign of life in the journal."""
        self._journal.sign(self.patience_ns)

    def leave(self) -> None:
        """Announce that this process stops in good order; it may go on later."""
        self._journal.leave()
        self.send(Left())

    def close(self) -> None:
        """Close the journal; to be called when all records are sent."""
        self._journal.close()


def record_reader(endpoint: Endpoint, camera: str, process: str) -> Reader[FrameRecord]:
    """The receiving end of `record_writer`, for the watchdog."""
    return endpoint.reader(f"{camera}/records/{process}", FrameRecord, RECORD_DEPTH)


def detection_writer(endpoint: Endpoint, camera: str) -> Writer[DetectionRecord]:
    """The sending end of detections for readers on this machine that cannot wait for DDS."""
    return endpoint.writer(f"{camera}/detections", DetectionRecord, 0, DETECTION_DEPTH)


def detection_reader(endpoint: Endpoint, camera: str) -> Reader[DetectionRecord]:
    """The receiving end of `detection_writer`."""
    return endpoint.reader(f"{camera}/detections", DetectionRecord, DETECTION_DEPTH)
