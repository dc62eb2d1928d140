"""The two clocks of a replay: simulated time, and the pace at which a drive was recorded."""

import threading
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
from perception_nodes.core.statistics import MEDIAN_AND_P99, latency_percentiles
from perception_nodes.drives.bag import RawFrame
from perception_nodes.drives.log_clock import LogClock
from perception_nodes.replay.background import ahead
from perception_nodes.replay.offline_camera import Camera, Outcome, Source
from perception_nodes.replay.turns import CameraTurn, turns
from perception_nodes.report.recording import ReportedFrame

LANES = 2
"""Detection threads: one infers while the other decodes."""
PREPARED_AHEAD = 4


class _Prepared(NamedTuple):
    frame: RawFrame
    record: FrameRecord
    header: FrameHeader | None
    pixels: NDArray[np.uint8]
    source: Source | None


class LockstepClock:
    """Detects the objects of every frame, in order, as fast as it can, under simulated time.

    Simulated time stands still at the log time of a frame while the frame is processed. Stamps,
    statuses and pictures therefore follow from the recording alone, and two runs write the same
    bytes. The time that the work takes on this machine is measured too, and reported separately.
    """

    def __init__(self, camera: Camera) -> None:
        """Nothing is read before `outcomes` is iterated over."""
        self._inputs = [camera.loaded.new_input() for _ in range(PREPARED_AHEAD + LANES + 3)]
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
        prepared = ahead(self._prepared(frames), PREPARED_AHEAD)
        with ThreadPoolExecutor(self._lanes) as lanes, closing(prepared):
            for item in prepared:
                waiting.append(lanes.submit(self._outcome, item))
                if len(waiting) > LANES:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _prepared(self, frames: Iterable[RawFrame]) -> Iterator[_Prepared]:
        for frame, pixels in zip(frames, cycle(self._inputs), strict=False):
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


READ_AHEAD = 8
SETTLE_NS = 300_000_000
"""Time from the start to the first frame, in which some frames are read."""
SPIN_NS = 300_000
"""Time of busy waiting before a frame is due, since sleeping is not exact enough."""


class RealTimeClock:
    """Plays frames when they are due, and detects the objects of the newest one.

    As on the vehicle, a frame that cannot be in time is not begun. Preprocessing and detection run
    one after the other in one thread.

    Attributes:
        log_clock: time at which each frame is due; its warnings name jumps of the log time.
    """

    def __init__(self, camera: Camera, rate: float) -> None:
        """Prepare.

        Args:
            camera: the camera of the drive; it skips frames that would be late.
            rate: speed; 2 is twice as fast as recorded.
        """
        self.log_clock = LogClock()
        self._camera, self._rate = camera, rate
        self._errors_ns: list[int] = []
        self._pixels = camera.loaded.new_input()
        self._pipeline = camera.pipeline(camera.loaded.backend)
        # Frames with the CLOCK_MONOTONIC at which they were due; None at the end.
        self._arrived: SimpleQueue[tuple[RawFrame, int] | None] = SimpleQueue()
        self._stop = threading.Event()
        self._failure: BaseException | None = None

    def outcomes(self, frames: Iterable[RawFrame]) -> Generator[Outcome, None, None]:
        """The outcome of each frame, in order.

        Raises:
            BagError: no frame can be read.
        """
        pacer = threading.Thread(target=self._pace, args=(frames,), name="pacer", daemon=True)
        pacer.start()
        try:
            newest = self._arrived.get()
            while newest is not None:
                frame, due_ns = newest
                has_next = not self._arrived.empty()
                newer = self._arrived.get() if has_next else None
                if newer is None:
                    yield self._detected(frame, due_ns)
                else:
                    yield _outcome(frame, self._camera.supersede(frame, due_ns))
                newest = newer if has_next else self._arrived.get()
        finally:
            self._stop.set()
            pacer.join()
        if self._failure is not None:
            raise self._failure

    def timing_error_ms(self) -> dict[str, float | None]:
        """How far from their due time frames were released: `p50`, `p99` and `max`."""
        return latency_percentiles(np.array(self._errors_ns) / 1e6, {**MEDIAN_AND_P99, "max": 100})

    def _detected(self, frame: RawFrame, due_ns: int) -> Outcome:
        record, header, _ = self._camera.prepare(frame, due_ns, self._pixels)
        if header is None:
            return _outcome(frame, record)
        record, found, message = self._camera.detect(header, self._pixels, self._pipeline)
        engine = self._pipeline.engine
        return _outcome(frame, record)._replace(found=found, message=message, engine=engine)

    def _pace(self, frames: Iterable[RawFrame]) -> None:
        try:
            with closing(ahead(frames, READ_AHEAD)) as read:
                begin_ns = time.monotonic_ns() + SETTLE_NS
                for frame in read:
                    due_ns = begin_ns + round(self.log_clock.passed_ns(frame) / self._rate)
                    left_ns = due_ns - time.monotonic_ns() - SPIN_NS
                    if self._stop.wait(left_ns / 1e9) if left_ns > 0 else self._stop.is_set():
                        return
                    while time.monotonic_ns() < due_ns:
                        time.sleep(0)  # let other threads run
                    self._errors_ns.append(abs(time.monotonic_ns() - due_ns))
                    self._arrived.put((frame, due_ns))
        except BaseException as error:
            self._failure = error
        finally:
            self._arrived.put(None)


def _outcome(frame: RawFrame, record: FrameRecord) -> Outcome:
    return Outcome(frame, record, ReportedFrame.of_record(record, frame.log_time_ns))
