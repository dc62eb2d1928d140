"""The camera of a recorded drive in this process, without ROS: preprocessing and detection."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import (
    Backend,
    BackendSettings,
    QueuedBackend,
    QueuedCaller,
    open_backend,
)
from perception_nodes.core.budget import DEADLINE_MS, Budget
from perception_nodes.core.clock import SystemClock
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import (
    Detections,
    FrameHeader,
    FrameRecord,
    FrameRejected,
    FrameStatus,
    ImageView,
)
from perception_nodes.core.inference import Candidate, HeadTensors, InferenceBackend
from perception_nodes.core.pipeline import Pipeline
from perception_nodes.drives.bag import Drive, RawFrame
from perception_nodes.drives.rectification import RecordedCalibration
from perception_nodes.drives.schemas import COMPRESSED_IMAGE
from perception_nodes.networks.model import load_model
from perception_nodes.preprocess.calibration import read_calibration
from perception_nodes.preprocess.ingest import Ingest
from perception_nodes.report.recording import FrameDetections
from perception_nodes.transport.cdr_reader import read_compressed_image, read_image
from perception_nodes.transport.cdr_writer import write_detection_array

CAMERA_NAME = "replay"
WARM_UP_CALLS = 3
RECENT_CALLS = 16
"""More calls than can end before the thread of an earlier one goes on."""


@dataclass(frozen=True)
class ReplaySettings:
    """The model of a replay and how it runs; see the nodes' parameters of the same names.

    The backend is never `auto`: results say which one computed them.
    """

    model: str = "road-n"
    backend: str = "openvino"
    threads: int = 0
    deadline_ms: float = DEADLINE_MS
    score_threshold: float = DecodeSettings.score_threshold
    iou_threshold: float = DecodeSettings.iou_threshold
    across_classes: bool = False
    undistort: bool = True
    sample_bits: int = 0
    calibration_file: str = ""


class LoadedModel:
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
        self.decoder = model.decoder(
            DecodeSettings(
                settings.score_threshold,
                settings.iou_threshold,
                across_classes=settings.across_classes,
            )
        )

    def new_input(self) -> NDArray[np.uint8]:
        """A buffer for a network input, uint8 [height, width, 3] BGR."""
        return np.zeros((self.model.input.height, self.model.input.width, 3), np.uint8)

    def bare_inference_ns(self, inputs: list[NDArray[np.uint8]], calls: int) -> list[int]:
        """Durations in nanoseconds of inference alone, with no other work beside it."""
        durations_ns = []
        for call in range(-WARM_UP_CALLS, calls):
            begin_ns = time.monotonic_ns()
            self.backend.infer(inputs[call % len(inputs)])
            if call >= 0:
                durations_ns.append(time.monotonic_ns() - begin_ns)
        return durations_ns

    def __enter__(self) -> "LoadedModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.close()


class OneAtATime:
    """Lets several threads share a backend: calls wait for each other and return copies.

    Attributes:
        ended_ns: see `QueuedCaller`.
    """

    def __init__(self, backend: InferenceBackend, lock: threading.Lock) -> None:
        """Make the caller of one thread; `lock` is that of all threads."""
        self._backend, self._lock = backend, lock
        self.ended_ns = 0

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Infer; the tensors are the caller's own."""
        with self._lock:
            try:
                heads = self._backend.infer(image)
                boxes, classes = ([t.copy() for t in some] for some in (heads.boxes, heads.classes))
                return HeadTensors(boxes, classes, heads.engine)
            finally:
                self.ended_ns = time.monotonic_ns()


class Ends:
    """When calls of several threads ended, of which one begins where the one before it ends."""

    def __init__(self) -> None:
        """No call yet."""
        self._lock = threading.Lock()
        self._recent_ns: deque[int] = deque(maxlen=RECENT_CALLS)

    def before(self, ended_ns: int) -> int:
        """Note the end of a call; returns the end of the call before it.

        Threads may come in another order than their calls have ended. A call whose thread is still
        to come is not known; then it is the end of an earlier one, so that a call seems to have
        taken longer than it has, not less long.
        """
        with self._lock:
            before_ns = max((ns for ns in self._recent_ns if ns < ended_ns), default=0)
            self._recent_ns.append(ended_ns)
        return before_ns


class CameraTurn:
    """Calls a backend for one thread, while other threads call it too.

    Attributes:
        waited_ns: how long the last call waited for calls of other threads.
    """

    def __init__(self, caller: QueuedCaller, ends: Ends) -> None:
        """All threads share `ends`."""
        self._caller, self._ends = caller, ends
        self.waited_ns = 0

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Infer; the tensors are valid until this thread's next call."""
        asked_ns = time.monotonic_ns()
        try:
            return self._caller.infer(image)
        finally:
            self.waited_ns = max(0, self._ends.before(self._caller.ended_ns) - asked_ns)


def turns(backend: Backend, threads: int) -> list[CameraTurn]:
    """Make a caller for each thread, so that one infers while others decode their results."""
    callers: Sequence[QueuedCaller]
    if isinstance(backend, QueuedBackend):
        callers = backend.queue(threads)
    else:
        lock = threading.Lock()
        callers = [OneAtATime(backend, lock) for _ in range(threads)]
    ends = Ends()
    return [CameraTurn(caller, ends) for caller in callers]


class _DueClock:
    """Clocks of the time of the recording: a frame is due at the instant of its stamp."""

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
        # Of the same instant as the last monotonic time: a frame's age then does not depend on
        # how long this process takes between the two calls.
        return self._stamp_ns + self._now_ns - self._due_ns


class Camera:
    """Preprocessing and detection of the frames of one drive; each may run in its own thread."""

    def __init__(self, drive: Drive, loaded: LoadedModel, skip_late: bool) -> None:
        """Prepare for a drive.

        Args:
            drive: the recorded frames.
            loaded: the model.
            skip_late: see `Pipeline`.

        Raises:
            UnknownLens: the calibration file cannot be used.
        """
        settings, model = loaded.settings, loaded.model
        self._names = tuple(name.encode() for name in model.classes)
        self._labels = model.classes
        self._preprocessor = model.input.preprocessor(settings.undistort, settings.sample_bits)
        self._calibration = RecordedCalibration(self._preprocessor)
        self._is_recorded = settings.undistort and not settings.calibration_file
        if settings.calibration_file:
            self._preprocessor.calibrate(read_calibration(settings.calibration_file))
        self._clock = _DueClock()
        budget = Budget.for_deadline(settings.deadline_ms)
        self._ingest = Ingest(self._preprocessor, CAMERA_NAME, budget, self._clock)
        inference_ns = 0
        if skip_late:
            durations_ns = loaded.bare_inference_ns([loaded.new_input()], calls=20)
            inference_ns = sorted(durations_ns)[len(durations_ns) // 2]
        self._loaded, self._skip_late, self._inference_ns = loaded, skip_late, inference_ns
        self._pipeline = self.pipeline(loaded.backend)
        compressed = drive.message_type == COMPRESSED_IMAGE
        self._read = read_compressed_image if compressed else read_image

    @property
    def warnings(self) -> list[str]:
        """Problems with the calibration of the frames so far."""
        return self._calibration.notes()

    def enter(self, frame: RawFrame, due_ns: int) -> tuple[FrameRecord, ImageView | None]:
        """Start the record of a frame; its sequence number is its index in the drive.

        Args:
            frame: as it was recorded.
            due_ns: CLOCK_MONOTONIC at which the camera delivers it.

        Returns:
            The record and the image. If the image cannot be read it is None, and the record is
            complete.
        """
        if self._is_recorded:
            self._calibration.follow(frame)
        try:
            image = self._read(frame.data)
        except FrameRejected as error:
            self._clock.follow(frame.log_time_ns, due_ns)
            record = self._ingest.enter(frame.log_time_ns, "", due_ns)
            record.sequence = frame.index
            return self.end(record, FrameStatus.FAILED, str(error)), None
        self._clock.follow(image.stamp_ns, due_ns)
        record = self._ingest.enter(image.stamp_ns, image.frame_id, due_ns)
        record.sequence = frame.index
        return record, image

    def prepare(
        self, record: FrameRecord, image: ImageView, pixels: NDArray[np.uint8]
    ) -> FrameHeader | None:
        """Write a frame into a network input.

        Returns:
            The input's header; None if the frame is rejected, and its record is complete.
        """
        header = FrameHeader()
        try:
            self._ingest.fill(record, image, header, pixels)
            self._calibration.check(record.sequence)
        except FrameRejected as error:
            self.end(record, FrameStatus.FAILED, str(error))
            return None
        return header

    def pipeline(self, backend: InferenceBackend) -> Pipeline:
        """Make the detection part, for one thread."""
        name, decoder = self._loaded.model.name, self._loaded.decoder
        candidate = Candidate(name, backend, decoder, self._inference_ns)
        return Pipeline([candidate], SystemClock(), self._skip_late)

    def detect(
        self, header: FrameHeader, pixels: NDArray[np.uint8], pipeline: Pipeline | None = None
    ) -> tuple[FrameRecord, Detections | None, bytes]:
        """Detect the objects of a prepared frame.

        Args:
            header: header of the network input.
            pixels: the network input.
            pipeline: of the calling thread; by default that of the only thread.

        Returns:
            The complete record; the detections, None if they are not published; and the detections
            as `vision_msgs/msg/Detection2DArray`.
        """
        pipeline = pipeline or self._pipeline
        record, detections = pipeline.detect(header, pixels)
        if detections is None:
            return record, None, b""
        message = write_detection_array(record.stamp_ns, record.frame_id, detections, self._names)
        return pipeline.published(record), detections, message

    def named(self, detections: Detections) -> FrameDetections:
        """Detections with the names of their classes."""
        labels = tuple(self._labels[index] for index in detections.classes.tolist())
        return FrameDetections(labels, detections.scores, detections.boxes)

    @staticmethod
    def end(record: FrameRecord, status: FrameStatus, reason: str) -> FrameRecord:
        """Complete the record of a frame without detection."""
        return Ingest.end(record, status, reason)
