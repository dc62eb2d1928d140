"""Every frame of a drive, in order, under simulated time.

Simulated time stands still at the log time of a frame while the frame is processed. Stamps,
statuses and pictures therefore follow from the recording alone, and two runs write the same bytes.
The time that the work takes on this machine is measured too, and reported separately.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.counters import EngineCounters
from perception_nodes.core.frame import (
    STAMPS,
    FrameHeader,
    FrameRecord,
    FrameStatus,
    latency_ms,
)
from perception_nodes.core.pipeline import Pipeline
from perception_nodes.drives.bag import RawFrame
from perception_nodes.drives.schemas import (
    ANNOTATIONS,
    COMPRESSED_IMAGE,
    DETECTIONS,
    FRAME_REPORT,
    schema_text,
)
from perception_nodes.replay.background import Ahead, Behind, quick_switches
from perception_nodes.replay.followed import Followed
from perception_nodes.replay.golden import as_kept
from perception_nodes.replay.offline_camera import Camera, CameraTurn, LoadedModel, turns
from perception_nodes.replay.outputs import PictureWriter
from perception_nodes.report.changes import Change, Comparison, objects_of
from perception_nodes.report.recording import (
    DETECTIONS_TOPIC,
    FRAME_REPORT_TOPIC,
    FrameDetections,
    Recorder,
    Recording,
    ReportedFrame,
)
from perception_nodes.transport.cdr_writer import write_frame_report

LANES = 2
"""Detection threads: one infers while the other decodes."""
AHEAD = 4
BEHIND = 8
"""Frames that wait between two threads."""


class _Prepared(NamedTuple):
    frame: RawFrame
    record: FrameRecord
    header: FrameHeader | None
    pixels: NDArray[np.uint8]


@dataclass
class Lockstep:
    """The results of the frames.

    Attributes:
        recording: a report with measured stamps for each frame, and detections by frame index.
        inputs: some inputs of the network.
        engine_calls: the counters of an accelerator, by frame index.
        wall_s: time from the first frame to the last one written.
    """

    recording: Recording = field(default_factory=lambda: Recording(by_number=True))
    inputs: list[NDArray[np.uint8]] = field(default_factory=list)
    engine_calls: dict[int, EngineCounters] = field(default_factory=dict)
    wall_s: float = 0.0

    def run(
        self,
        camera: Camera,
        loaded: LoadedModel,
        recorder: Recorder,
        pictures: PictureWriter | None,
        comparison: Comparison | None,
        followed: Followed | None,
        frames: Iterable[RawFrame],
        progress: Callable[[int], None],
    ) -> None:
        """Process frames; reading, decoding and writing run in threads beside inference.

        Args:
            camera: the camera of the drive.
            loaded: the model.
            recorder: receives the messages.
            pictures: receives the frames; None for no pictures.
            comparison: receives the objects of every frame, with the digits that a golden keeps;
                None without one.
            followed: follows the objects; None for no tracks.
            frames: in order; they are read when they are needed.
            progress: called with the number of frames done.

        Raises:
            BagError: no frame can be read.
        """
        for type_name in (DETECTIONS, FRAME_REPORT, ANNOTATIONS, COMPRESSED_IMAGE):
            schema_text(type_name)  # takes a while the first time
        begin_s = time.monotonic()
        self.inputs = [loaded.new_input() for _ in range(AHEAD + LANES + 3)]

        def write(
            frame: RawFrame,
            record: FrameRecord,
            message: bytes,
            found: FrameDetections | None,
            latency: float | None,
        ) -> None:
            at_ns = frame.log_time_ns
            if found is not None:
                recorder.write(DETECTIONS_TOPIC, DETECTIONS, at_ns, message)
            recorder.write(FRAME_REPORT_TOPIC, FRAME_REPORT, at_ns, write_frame_report(record))
            if followed is not None:
                followed.add(record, found, at_ns)
            changes: Sequence[Change] = ()
            if comparison is not None:
                changes = comparison.frame(frame.index, at_ns, as_kept(objects_of(found)))
            if pictures is not None:
                report = ReportedFrame.of_record(record, at_ns)
                pictures.add(frame, record.stamp_ns, at_ns, report, found, latency, changes)

        free: SimpleQueue[tuple[CameraTurn, Pipeline]] = SimpleQueue()
        for turn in turns(loaded.backend, LANES):
            free.put((turn, camera.pipeline(turn)))

        def detect(item: _Prepared) -> tuple[FrameRecord, FrameDetections | None, bytes]:
            if item.header is None:
                return item.record, None, b""
            turn, pipeline = free.get()
            try:
                _postpone(item.header, time.monotonic_ns() - item.header.preprocessed_ns)
                record, detections, message = camera.detect(item.header, item.pixels, pipeline)
                if pipeline.engine is not None:
                    self.engine_calls[item.frame.index] = pipeline.engine
                _postpone(record, turn.waited_ns)
            finally:
                free.put((turn, pipeline))
            return record, None if detections is None else camera.named(detections), message

        def finish(frame: RawFrame, future: Future[Any]) -> None:
            record, found, message = future.result()
            if record.status == FrameStatus.LATE:
                record.status = FrameStatus.OK
            measured = ReportedFrame.of_record(record, frame.log_time_ns)
            self.recording.reports.append(measured)
            if found is not None:
                self.recording.detections[frame.index] = found
            _stand_still(record, frame.log_time_ns)
            behind.call(write, frame, record, message, found, latency_ms(measured))
            progress(len(self.recording.reports))

        waiting: deque[tuple[RawFrame, Future[Any]]] = deque()
        items = self._prepared(frames, camera)
        with (
            quick_switches(),
            Behind(BEHIND) as behind,
            ThreadPoolExecutor(LANES) as lanes,
            Ahead(items, AHEAD) as ahead,
        ):
            for item in ahead:
                waiting.append((item.frame, lanes.submit(detect, item)))
                if len(waiting) > LANES:
                    finish(*waiting.popleft())
            while waiting:
                finish(*waiting.popleft())
        self.wall_s = time.monotonic() - begin_s

    def _prepared(self, frames: Iterable[RawFrame], camera: Camera) -> Iterator[_Prepared]:
        for frame, pixels in zip(frames, cycle(self.inputs), strict=False):
            record, image = camera.enter(frame, time.monotonic_ns())
            header = None if image is None else camera.prepare(record, image, pixels)
            yield _Prepared(frame, record, header, pixels)


def _postpone(frame: FrameHeader | FrameRecord, waited_ns: int) -> None:
    """Move a frame's stamps by the time that it waited for a thread, so only work is measured."""
    for name in ("capture_ns", "ingested_ns", "preprocessed_ns", "deadline_ns"):
        setattr(frame, name, getattr(frame, name) + waited_ns)


def _stand_still(record: FrameRecord, at_ns: int) -> None:
    """Set every stamp that a frame has to one instant; a stamp of 0 means that it has none."""
    at_ns = max(at_ns, 1)
    record.deadline_ns = at_ns + record.deadline_ns - record.capture_ns
    for name in STAMPS:
        if getattr(record, name):
            setattr(record, name, at_ns)
