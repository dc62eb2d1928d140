"""Every frame of a drive, in order, under simulated time.

Simulated time stands still at the log time of a frame while the frame is processed. Stamps,
statuses and pictures therefore follow from the recording alone, and two runs write the same bytes.
The time that the work takes on this machine is measured too, and reported separately.
"""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import cycle
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import STAMPS, FrameHeader, FrameRecord, FrameStatus
from perception_nodes.core.pipeline import Pipeline
from perception_nodes.drives.bag import RawFrame
from perception_nodes.replay.background import ahead
from perception_nodes.replay.offline_camera import Camera, Outcome, Source
from perception_nodes.replay.turns import CameraTurn, turns
from perception_nodes.report.recording import ReportedFrame

LANES = 2
"""Detection threads: one infers while the other decodes."""
AHEAD = 4


class _Prepared(NamedTuple):
    frame: RawFrame
    record: FrameRecord
    header: FrameHeader | None
    pixels: NDArray[np.uint8]
    source: Source | None


class LockstepClock:
    """Detects the objects of every frame, as fast as it can.

    Attributes:
        inputs: inputs of the network, which hold the last frames.
    """

    def __init__(self, camera: Camera) -> None:
        """Nothing is read before `outcomes` is iterated over."""
        self.inputs = [camera.loaded.new_input() for _ in range(AHEAD + LANES + 3)]
        self._camera = camera
        self._free: SimpleQueue[tuple[CameraTurn, Pipeline]] = SimpleQueue()
        # Where to look again follows from the frame before.
        self._lanes = 1 if camera.looks_again else LANES
        for turn in turns(camera.loaded.backend, self._lanes):
            self._free.put((turn, camera.pipeline(turn)))

    def outcomes(self, frames: Iterable[RawFrame]) -> Generator[Outcome, None, None]:
        """The outcome of each frame, in order; threads read and prepare frames in advance.

        Raises:
            BagError: no frame can be read.
        """
        waiting: deque[Future[Outcome]] = deque()
        prepared = ahead(self._prepared(frames), AHEAD)
        with ThreadPoolExecutor(self._lanes) as lanes, closing(prepared):
            for item in prepared:
                waiting.append(lanes.submit(self._outcome, item))
                if len(waiting) > LANES:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _prepared(self, frames: Iterable[RawFrame]) -> Iterator[_Prepared]:
        for frame, pixels in zip(frames, cycle(self.inputs), strict=False):
            record, header, source = self._camera.prepare(frame, time.monotonic_ns(), pixels)
            yield _Prepared(frame, record, header, pixels, source)

    def _outcome(self, item: _Prepared) -> Outcome:
        frame, record, found, message, engine = item.frame, item.record, None, b"", None
        if item.header is not None:
            turn, pipeline = self._free.get()
            try:
                _postpone(item.header, time.monotonic_ns() - item.header.preprocessed_ns)
                slot = item.header, item.pixels, pipeline, item.source
                record, found, message = self._camera.detect(*slot)
                engine = pipeline.engine
                _postpone(record, turn.waited_ns)
            finally:
                self._free.put((turn, pipeline))
        if record.status == FrameStatus.LATE:
            record.status = FrameStatus.OK
        measured = ReportedFrame.of_record(record, frame.log_time_ns)
        _stand_still(record, frame.log_time_ns)
        return Outcome(frame, record, measured, found, message, engine)


def _postpone(frame: FrameHeader | FrameRecord, waited_ns: int) -> None:
    """Move a frame's stamps by the time that it waited for a thread; only work is measured."""
    for name in ("capture_ns", "ingested_ns", "preprocessed_ns", "deadline_ns"):
        setattr(frame, name, getattr(frame, name) + waited_ns)


def _stand_still(record: FrameRecord, at_ns: int) -> None:
    """Set the stamps of a frame to one instant; a stamp of 0 means none, and stays."""
    at_ns = max(at_ns, 1)
    record.deadline_ns = at_ns + record.deadline_ns - record.capture_ns
    for name in STAMPS:
        if getattr(record, name):
            setattr(record, name, at_ns)
    for look in record.looks:
        look.cost_ms = 0
