"""A drive at its recorded pace, with dropped and late frames.

As on the vehicle, a frame is captured when it is due, the newest frame wins, and a frame that
cannot be in time is not begun. Preprocessing and detection run one after the other in one thread.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from perception_nodes.core.counters import EngineCounters
from perception_nodes.core.frame import FrameRecord, FrameStatus, latency_ms
from perception_nodes.core.statistics import MEDIAN_AND_P99, latency_percentiles
from perception_nodes.drives.bag import RawFrame
from perception_nodes.drives.log_clock import LogClock
from perception_nodes.drives.schemas import DETECTIONS, FRAME_REPORT, schema_text
from perception_nodes.replay.background import Ahead, quick_switches
from perception_nodes.replay.followed import Followed
from perception_nodes.replay.offline_camera import Camera, LoadedModel
from perception_nodes.replay.outputs import Played
from perception_nodes.report.recording import (
    DETECTIONS_TOPIC,
    FRAME_REPORT_TOPIC,
    Recorder,
    Recording,
    ReportedFrame,
)
from perception_nodes.transport.cdr_writer import write_frame_report
from perception_nodes.watchdog.ledger import PASSED_OVER

AHEAD = 8
SETTLE_NS = 300_000_000
"""From the start to the first frame, so that some frames are read by then."""
SPIN_NS = 300_000
"""Busy waiting before a frame is due, since sleeping is not exact enough."""


class _Due(NamedTuple):
    """A frame and the CLOCK_MONOTONIC at which the camera delivers it."""

    frame: RawFrame
    due_ns: int


class _Mailbox:
    """Holds the frames that arrived since the last one was taken."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: list[_Due] = []
        self._ended = False

    def put(self, due: _Due) -> None:
        with self._condition:
            self._waiting.append(due)
            self._condition.notify()

    def end(self) -> None:
        with self._condition:
            self._ended = True
            self._condition.notify()

    def take(self) -> list[_Due]:
        """Wait for frames and take them, the newest last; empty at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._ended)
            taken, self._waiting = self._waiting, []
            return taken


@dataclass
class Realtime:
    """The results of the frames.

    Attributes:
        recording: a report for each frame, and detections by frame index.
        played: results by frame index.
        errors_ns: how far from its time each frame was released.
        engine_calls: the counters of an accelerator, by frame index.
        log_clock: tells when each frame is due, and where the recorded time jumps.
    """

    recording: Recording = field(default_factory=lambda: Recording(by_number=True))
    played: dict[int, Played] = field(default_factory=dict)
    errors_ns: list[int] = field(default_factory=list)
    engine_calls: dict[int, EngineCounters] = field(default_factory=dict)
    log_clock: LogClock = field(default_factory=LogClock)

    def run(
        self,
        camera: Camera,
        loaded: LoadedModel,
        recorder: Recorder,
        rate: float,
        followed: Followed | None,
        frames: Iterable[RawFrame],
        progress: Callable[[int], None],
    ) -> None:
        """Play frames.

        Args:
            camera: the camera of the drive; it skips frames that would be late.
            loaded: the model.
            recorder: receives detections and reports.
            rate: speed; 2 is twice as fast as recorded.
            followed: follows the objects; None for no tracks.
            frames: in order; they are read when they are needed.
            progress: called with the number of frames done.

        Raises:
            BagError: no frame can be read.
        """
        for type_name in (DETECTIONS, FRAME_REPORT):
            schema_text(type_name)  # takes a while the first time
        mailbox = _Mailbox()
        stop = threading.Event()
        failure: list[BaseException] = []
        pixels, pipeline = loaded.new_input(), camera.pipeline(loaded.backend)

        def pace() -> None:
            try:
                with Ahead(frames, AHEAD) as ahead:
                    begin_ns = time.monotonic_ns() + SETTLE_NS
                    for frame in ahead:
                        due_ns = begin_ns + round(self.log_clock.passed_ns(frame) / rate)
                        left_ns = due_ns - time.monotonic_ns() - SPIN_NS
                        if stop.wait(left_ns / 1e9) if left_ns > 0 else stop.is_set():
                            return
                        while time.monotonic_ns() < due_ns:
                            time.sleep(0)  # lets other threads run
                        self.errors_ns.append(abs(time.monotonic_ns() - due_ns))
                        mailbox.put(_Due(frame, due_ns))
            except BaseException as error:
                failure.append(error)
            finally:
                mailbox.end()

        with quick_switches():
            pacer = threading.Thread(target=pace, name="pacer", daemon=True)
            pacer.start()
            try:
                while taken := mailbox.take():
                    for frame, due_ns in taken[:-1]:
                        record, image = camera.enter(frame, due_ns)
                        if image is not None:
                            camera.end(record, FrameStatus.SUPERSEDED, PASSED_OVER.decode())
                        self._note(frame, record, recorder, followed)
                    frame, due_ns = taken[-1]
                    record, image = camera.enter(frame, due_ns)
                    header = None if image is None else camera.prepare(record, image, pixels)
                    if header is not None:
                        record, detections, message = camera.detect(header, pixels, pipeline)
                        if pipeline.engine is not None:
                            self.engine_calls[frame.index] = pipeline.engine
                        if detections is not None:
                            recorder.write(DETECTIONS_TOPIC, DETECTIONS, frame.log_time_ns, message)
                            self.recording.detections[frame.index] = camera.named(detections)
                    self._note(frame, record, recorder, followed)
                    progress(len(self.played))
            finally:
                stop.set()
                pacer.join()
        if failure:
            raise failure[0]

    def timing_error_ms(self) -> dict[str, float | None]:
        """How far from their time frames were released: `p50`, `p99` and `max`."""
        errors_ms = np.array(self.errors_ns) / 1e6
        return latency_percentiles(errors_ms, {**MEDIAN_AND_P99, "max": 100})

    def _note(
        self,
        frame: RawFrame,
        record: FrameRecord,
        recorder: Recorder,
        followed: Followed | None,
    ) -> None:
        at_ns = frame.log_time_ns
        recorder.write(FRAME_REPORT_TOPIC, FRAME_REPORT, at_ns, write_frame_report(record))
        report = ReportedFrame.of_record(record, at_ns)
        self.recording.reports.append(report)
        found = self.recording.found(report)
        if followed is not None:
            followed.add(record, found, at_ns)
        self.played[frame.index] = Played(record.stamp_ns, at_ns, report, found, latency_ms(report))
