"""A drive at its recorded pace, with dropped and late frames.

As on the vehicle, a frame is captured when it is due, the newest frame wins, and a frame that
cannot be in time is not begun. Preprocessing and detection run one after the other in one thread.
"""

import threading
import time
from collections.abc import Generator, Iterable
from contextlib import closing
from queue import SimpleQueue

import numpy as np

from perception_nodes.core.frame import FrameRecord
from perception_nodes.core.statistics import MEDIAN_AND_P99, latency_percentiles
from perception_nodes.drives.bag import RawFrame
from perception_nodes.drives.log_clock import LogClock
from perception_nodes.replay.background import ahead
from perception_nodes.replay.offline_camera import Camera, Outcome
from perception_nodes.report.recording import ReportedFrame

AHEAD = 8
SETTLE_NS = 300_000_000
"""Time from the start to the first frame, in which some frames are read."""
SPIN_NS = 300_000
"""Time of busy waiting before a frame is due, since sleeping is not exact enough."""


class RealTimeClock:
    """Plays frames when they are due, and detects the objects of the newest one.

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
            with closing(ahead(frames, AHEAD)) as read:
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
