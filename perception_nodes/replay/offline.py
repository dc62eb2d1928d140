"""A drive through the pipeline in this process, with no ROS: every frame, in order."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception_nodes.backends.base import BackendSettings, open_backend
from perception_nodes.backends.model import load_model
from perception_nodes.core.budget import DEADLINE_MS, Budget
from perception_nodes.core.decode import Decoder, DecodeSettings
from perception_nodes.core.frame import (
    Detections,
    FrameHeader,
    FrameRecord,
    FrameRejected,
    FrameStatus,
)
from perception_nodes.core.pipeline import Candidate, Pipeline
from perception_nodes.preprocess.calibration import read_calibration
from perception_nodes.preprocess.cpu import Preprocessor, UnknownLens
from perception_nodes.preprocess.ingest import Ingest
from perception_nodes.replay.bag import COMPRESSED_IMAGE, Drive, RawFrame
from perception_nodes.replay.outputs import finish
from perception_nodes.replay.recording import Recorder
from perception_nodes.replay.schemas import DETECTIONS, FRAME_REPORT
from perception_nodes.transport.cdr import (
    read_camera_info,
    read_compressed_image,
    read_image,
    write_detection_array,
    write_frame_report,
)


@dataclass(frozen=True)
class ReplaySettings:
    """What a replay runs; see the nodes' parameters of the same names."""

    model: str = "road-n"
    backend: str = "openvino"
    threads: int = 0
    deadline_ms: float = DEADLINE_MS
    score_threshold: float = DecodeSettings.score_threshold
    iou_threshold: float = DecodeSettings.iou_threshold
    undistort: bool = True
    calibration_file: str = ""


class _DriveClock:
    """Wall clock that stands at the stamp of the current frame; durations are real."""

    def __init__(self) -> None:
        self.stamp_ns = 0

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def realtime_ns(self) -> int:
        return self.stamp_ns


class OfflineReplay:
    """Preprocessing and detection of a drive's frames, one after the other; a context manager."""

    def __init__(
        self, drive: Drive, out: Path, settings: ReplaySettings, cache_dir: str = ""
    ) -> None:
        """Load the model.

        Args:
            drive: the recorded frames.
            out: folder for the outputs.
            settings: model, backend and thresholds.
            cache_dir: folder for compiled models, empty for none.

        Raises:
            ModelError: the model cannot be used.
            BackendError: nor can the backend.
            UnknownLens: nor the calibration file.
        """
        self._drive, self._out, self._settings = drive, out, settings
        self._recording = out / "recording.mcap.tmp"
        self._sent: list[tuple[int, int]] = []
        self.model = model = load_model(settings.model)
        self._backend = open_backend(settings.backend, BackendSettings(settings.threads, cache_dir))
        self.backend_info = self._backend.load(model)
        self._names = [name.encode() for name in model.classes]
        self._clock = _DriveClock()
        self._preprocessor = Preprocessor(model.input.width, model.input.height, settings.undistort)
        if settings.calibration_file:
            self._preprocessor.calibrate(read_calibration(settings.calibration_file))
        self.warnings: list[str] = []
        info = drive.camera_info()
        if info is not None:
            try:
                self._preprocessor.calibrate(read_camera_info(info))
            except (FrameRejected, UnknownLens) as error:
                self.warnings.append(f"frames are processed without calibration: {error}")
        budget = Budget.for_deadline(settings.deadline_ms)
        self._ingest = Ingest(self._preprocessor, "replay", budget, self._clock)
        decoder = Decoder(
            model.input.width,
            model.input.height,
            model.outputs.strides,
            model.outputs.reg_max,
            DecodeSettings(settings.score_threshold, settings.iou_threshold),
        )
        candidate = Candidate(model.name, self._backend, decoder, inference_ns=0)
        self._pipeline = Pipeline([candidate], self._clock, skip_late=False)
        self._pixels = np.empty((model.input.height, model.input.width, 3), np.uint8)
        compressed = drive.message_type == COMPRESSED_IMAGE
        self._read = read_compressed_image if compressed else read_image

    def process(self, frame: RawFrame) -> tuple[FrameRecord, Detections | None]:
        """One frame: its record, and its detections where it was not rejected."""
        received_ns = time.monotonic_ns()
        self._clock.stamp_ns = frame.log_time_ns
        try:
            image = self._read(frame.data)
        except FrameRejected as error:
            record = self._ingest.enter(frame.log_time_ns, "", received_ns)
            return self._ingest.end(record, FrameStatus.FAILED, str(error)), None
        self._clock.stamp_ns = image.stamp_ns
        record = self._ingest.enter(image.stamp_ns, image.frame_id, received_ns)
        header = FrameHeader()
        try:
            self._ingest.fill(record, image, header, self._pixels)
        except FrameRejected as error:
            return self._ingest.end(record, FrameStatus.FAILED, str(error)), None
        return self._pipeline.detect(header, self._pixels)

    def serialize(self, record: FrameRecord, detections: Detections) -> bytes:
        """The frame's `vision_msgs/msg/Detection2DArray`; completes its record."""
        message = write_detection_array(record.stamp_ns, record.frame_id, detections, self._names)
        self._pipeline.published(record)
        return message

    def record(self, progress: Callable[[FrameRecord], None]) -> None:
        """Process the whole drive.

        Args:
            progress: called with each frame's record.

        Raises:
            BagError: no frame can be read.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        with Recorder(self._recording) as recorder:
            for frame in self._drive.frames():
                record, detections = self.process(frame)
                stamp_ns = record.stamp_ns
                self._sent.append((frame.index, stamp_ns))
                if detections is not None:
                    message = self.serialize(record, detections)
                    recorder.write("/perception/detections", DETECTIONS, stamp_ns, message)
                report = write_frame_report(record)
                recorder.write("/perception/frame_report", FRAME_REPORT, stamp_ns, report)
                progress(record)

    def finish(self, writing: Callable[[int, int], None]) -> dict[str, Any]:
        """Write summary, detections, report and video.

        Args:
            writing: called with frames done and frames in all.

        Returns:
            The summary, as in summary.json.
        """
        context = {
            "bag": str(self._drive.path),
            "topic": self._drive.topic,
            "path": "offline",
            "model": self.model.name,
            "precision": self.model.precision,
            "backend": self._settings.backend,
            "runtime": self.backend_info.runtime,
            "deadline_ms": self._settings.deadline_ms,
            "frames_sent": len(self._sent),
            "warnings": self.warnings,
            "machine": platform.processor() or platform.machine(),
        }
        return finish(self._out, self._recording, self._drive, self._sent, context, writing)

    def __enter__(self) -> "OfflineReplay":
        return self

    def __exit__(self, *_: object) -> None:
        """Give the backend's memory back and remove what is only half done."""
        self._backend.close()
        self._recording.unlink(missing_ok=True)
