"""The camera of a recorded drive in this process, without ROS: preprocessing and detection."""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.budget import DEADLINE_MS, Budget
from perception_nodes.core.clock import SystemClock
from perception_nodes.core.counters import EngineCounters
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import (
    FrameHeader,
    FrameRecord,
    FrameRejected,
    FrameStatus,
    ImageView,
)
from perception_nodes.core.inference import Candidate, InferenceBackend
from perception_nodes.core.pipeline import Pipeline
from perception_nodes.drives.bag import RawFrame
from perception_nodes.drives.rectification import RecordedCalibration
from perception_nodes.networks.model import load_model
from perception_nodes.preprocess.calibration import read_calibration
from perception_nodes.preprocess.ingest import Ingest
from perception_nodes.replay.drawing import Drawn, Read
from perception_nodes.replay.looks import ScheduledLooks
from perception_nodes.report.recording import FrameDetections, ReportedFrame
from perception_nodes.transport.cdr_writer import write_detection_array
from perception_nodes.watchdog.ledger import PASSED_OVER

CAMERA_NAME = "replay"
WARM_UP_CALLS = 3
Source = tuple[ImageView, int]
"""A frame, uncompressed, and the significant bits of its samples."""


@dataclass(frozen=True)
class ReplaySettings:
    """The model of a replay and how it runs; see the nodes' parameters of the same names.

    The backend is never `auto`, since results name the one that computed them.
    """

    model: str = "open-n"
    backend: str = "openvino"
    threads: int = 0
    deadline_ms: float = DEADLINE_MS
    score_threshold: float = DecodeSettings.score_threshold
    iou_threshold: float = DecodeSettings.iou_threshold
    across_classes: bool = False
    undistort: bool = True
    sample_bits: int = 0
    calibration_file: str = ""
    second_look: int = 0


class LoadedModel(AbstractContextManager["LoadedModel"]):
    """A model loaded into its runtime, for any number of drives; a context manager."""

    def __init__(self, settings: ReplaySettings, cache_dir: str = "") -> None:
        """Load the model.

        Args:
            settings: model, backend and thresholds.
            cache_dir: folder for compiled models; empty for none.

        Raises:
            ModelError: the model cannot be used.
            BackendError: the backend cannot be used.
        """
        self.settings = settings
        self.model = model = load_model(settings.model)
        self.backend = open_backend(settings.backend, BackendSettings(settings.threads, cache_dir))
        self.info = self.backend.load(model)
        thresholds = settings.score_threshold, settings.iou_threshold
        decode = DecodeSettings(*thresholds, across_classes=settings.across_classes)
        self.decoder = model.decoder(decode)

    def new_input(self) -> NDArray[np.uint8]:
        """A buffer for a network input, uint8 [height, width, 3] BGR."""
        return np.zeros((self.model.input.height, self.model.input.width, 3), np.uint8)

    def bare_inference_ns(self, calls: int) -> list[int]:
        """Durations in nanoseconds of inference alone, with no other work beside it."""
        image, durations_ns = self.new_input(), []
        for call in range(-WARM_UP_CALLS, calls):
            begin_ns = time.monotonic_ns()
            self.backend.infer(image)
            if call >= 0:
                durations_ns.append(time.monotonic_ns() - begin_ns)
        return durations_ns

    def __exit__(self, *_: object) -> None:
        self.backend.close()


class _DueClock:
    """Clocks in the time of the recording, where a frame is due at its stamp."""

    behind_ns = 0

    def __init__(self) -> None:
        self._stamp_ns = self._due_ns = self._now_ns = 0

    def follow(self, stamp_ns: int, due_ns: int) -> None:
        """Set the stamp of the next frame and the CLOCK_MONOTONIC at which it is due."""
        self._stamp_ns, self._due_ns = stamp_ns, due_ns

    def monotonic_ns(self) -> int:
        self._now_ns = time.monotonic_ns()
        return self._now_ns

    def realtime_ns(self) -> int:
        # The instant is that of the last monotonic time, so that a frame's age does not depend on
        # the time between the two calls.
        return self._stamp_ns + self._now_ns - self._due_ns


class Outcome(NamedTuple):
    """What became of a frame.

    Attributes:
        frame: as it was recorded.
        record: the complete record, which is published.
        report: the record with its stamps as measured here.
        found: its objects; None if no detections are published.
        message: the objects as `vision_msgs/msg/Detection2DArray`.
        engine: counters of an accelerator; None for other backends.
        drawn: its pictures, if they were drawn with it.
    """

    frame: RawFrame
    record: FrameRecord
    report: ReportedFrame
    found: FrameDetections | None = None
    message: bytes = b""
    engine: EngineCounters | None = None
    drawn: Drawn | None = None


class Camera:
    """The camera of a drive; frames are prepared in one thread and detected in any number.

    Attributes:
        looks_again: whether frames get second looks, which takes one thread, in order.
        read: reads the picture of a frame's message.
        preprocessor, calibration: those of the frames so far.
    """

    def __init__(self, read: Read, loaded: LoadedModel, skip_late: bool) -> None:
        """Prepare for a drive.

        Args:
            read: reads the picture of a frame's message, see `Drive`.
            loaded: the model.
            skip_late: see `Pipeline`.

        Raises:
            UnknownLens: the calibration file cannot be used.
        """
        settings, model = loaded.settings, loaded.model
        self.loaded, self.read, self._skip_late = loaded, read, skip_late
        self._names = tuple(name.encode() for name in model.classes)
        self.preprocessor = model.input.preprocessor(settings.undistort, settings.sample_bits)
        self.calibration = RecordedCalibration(self.preprocessor)
        self._is_recorded = settings.undistort and not settings.calibration_file
        if settings.calibration_file:
            self.preprocessor.calibrate(read_calibration(settings.calibration_file))
        self._clock = _DueClock()
        budget = Budget.for_deadline(settings.deadline_ms)
        self._ingest = Ingest(self.preprocessor, CAMERA_NAME, budget, self._clock)
        self._inference_ns = 0
        if skip_late:
            durations_ns = loaded.bare_inference_ns(calls=20)
            self._inference_ns = sorted(durations_ns)[len(durations_ns) // 2]
        self.preprocessor.in_full = self.looks_again = settings.second_look > 0
        self._looks: ScheduledLooks

    def follow(self, frame: RawFrame) -> bytes | None:
        """Use the recorded calibration of a frame, as `prepare` does.

        Returns:
            The one in force; None if none is, or that of a file.
        """
        return self.calibration.follow(frame) if self._is_recorded else None

    def prepare(
        self, frame: RawFrame, due_ns: int, pixels: NDArray[np.uint8]
    ) -> tuple[FrameRecord, FrameHeader | None, Source | None]:
        """Write a frame into a network input.

        Args:
            frame: as it was recorded.
            due_ns: CLOCK_MONOTONIC at which the camera delivers it.
            pixels: the network input.

        Returns:
            The frame's record, the input's header, and the frame if it is to be looked at again.
            The header is None if it is rejected, and its record is complete.
        """
        record, image = self._enter(frame, due_ns)
        if image is None:
            return record, None, None
        header = FrameHeader()
        try:
            image = self._ingest.fill(record, image, header, pixels)
            self.calibration.check(record.sequence)
        except FrameRejected as error:
            return Ingest.end(record, FrameStatus.FAILED, str(error)), None, None
        return record, header, (image, self.preprocessor.sample_bits) if self.looks_again else None

    def supersede(self, frame: RawFrame, due_ns: int) -> FrameRecord:
        """The complete record of a frame that a newer one has replaced; see `prepare`."""
        record, image = self._enter(frame, due_ns)
        if image is None:
            return record
        return Ingest.end(record, FrameStatus.SUPERSEDED, PASSED_OVER.decode())

    def pipeline(self, backend: InferenceBackend) -> Pipeline:
        """Make the pipeline of detection for one thread."""
        loaded = self.loaded
        candidate = Candidate(loaded.model.name, backend, loaded.decoder, self._inference_ns)
        pipeline = Pipeline([candidate], SystemClock(), self._skip_late)
        if self.looks_again:
            self._looks = ScheduledLooks(loaded.model, loaded.settings.second_look, pipeline)
        return pipeline

    def detect(
        self,
        header: FrameHeader,
        pixels: NDArray[np.uint8],
        pipeline: Pipeline,
        source: Source | None = None,
    ) -> tuple[FrameRecord, FrameDetections | None, bytes]:
        """Detect the objects of a prepared frame.

        Args:
            header: header of the network input.
            pixels: the network input.
            pipeline: that of the calling thread.
            source: from `prepare`.

        Returns:
            `record`, `found` and `message` as in `Outcome`.
        """
        if source is not None:
            record, detections = self._looks.detect(header, pixels, *source)
        else:
            record, detections = pipeline.detect(header, pixels)
        if detections is None:
            return record, None, b""
        message = write_detection_array(record.stamp_ns, record.frame_id, detections, self._names)
        record = pipeline.published(record)
        labels = tuple(self.loaded.model.classes[index] for index in detections.classes.tolist())
        return record, FrameDetections(labels, detections.scores, detections.boxes), message

    def _enter(self, frame: RawFrame, due_ns: int) -> tuple[FrameRecord, ImageView | None]:
        """Start the record of a frame; its sequence number is its index in the drive.

        The image is None if it cannot be read; then the record is complete.
        """
        self.follow(frame)
        image, problem, stamp_ns, frame_id = None, "", frame.log_time_ns, ""
        try:
            image = self.read(frame.data)
            stamp_ns, frame_id = image.stamp_ns, image.frame_id
        except FrameRejected as error:
            problem = str(error)
        self._clock.follow(stamp_ns, due_ns)
        record = self._ingest.enter(stamp_ns, frame_id, due_ns)
        record.sequence = frame.index
        return (Ingest.end(record, FrameStatus.FAILED, problem) if problem else record), image
