"""Slots in, detections out: the second half of a frame's way."""

import sys
import time

import numpy as np
from vision_msgs.msg import Detection2DArray

from perception_nodes.backends.base import BackendSettings, open_backend
from perception_nodes.backends.model import load_model
from perception_nodes.config import DetectorSettings
from perception_nodes.core.clock import SystemClock
from perception_nodes.core.decode import Decoder, DecodeSettings
from perception_nodes.core.frame import (
    Detections,
    FrameHeader,
    FrameRecord,
    FrameStatus,
    RecordKind,
    record_of_header,
)
from perception_nodes.core.pipeline import Pipeline
from perception_nodes.environment import cache_folder
from perception_nodes.nodes.base import (
    HEARTBEAT_PERIOD_NS,
    IDLE_WAIT_MS,
    PerceptionNode,
    Period,
    run_node,
)
from perception_nodes.transport import channels
from perception_nodes.transport.cdr import write_detection_array
from perception_nodes.transport.shm import Sample

QUEUE_DEPTH = 10


class DetectorNode(PerceptionNode):
    """Runs the model on the newest frame and publishes what it finds."""

    settings_type = DetectorSettings

    def open(self) -> None:
        """Load the model, join the channels."""
        settings: DetectorSettings = self.settings
        model = load_model(settings.model)
        self._model = model
        self._class_names = [name.encode() for name in model.classes]
        self._backend = open_backend(
            settings.backend, BackendSettings(settings.threads, str(cache_folder()))
        )
        info = self._backend.load(model)
        self.get_logger().info(
            f"{model.name} ({model.precision}, {model.input.width}x{model.input.height}) on "
            f"{info.runtime}, {info.device}, {info.threads} threads"
        )
        decoder = Decoder(
            model.input.width,
            model.input.height,
            model.outputs.strides,
            model.outputs.reg_max,
            DecodeSettings(settings.score_threshold, settings.iou_threshold),
        )
        self._pipeline = Pipeline(
            self._backend, decoder, model.name, SystemClock(), settings.skip_late
        )
        self._publisher = self.add_publisher(
            Detection2DArray, settings.detections_topic, QUEUE_DEPTH
        )
        self._slots = channels.slot_reader(self.endpoint, settings.camera)
        self._records = channels.NumberedRecords(self.endpoint, settings.camera, "detector")
        self._detections = channels.detection_writer(self.endpoint, settings.camera)
        self._heartbeat = Period(HEARTBEAT_PERIOD_NS)

    def close(self) -> None:
        """Drop the model."""
        if hasattr(self, "_backend"):
            self._backend.close()

    def step(self) -> None:
        """Detect on the newest frame; the ledger knows that older ones were let go."""
        self._slots.wait(IDLE_WAIT_MS)
        sample = self._slots.newest()
        if sample is not None:
            self._records.send(self._detect(sample))
            sample.release()
        if self._heartbeat.due():
            self._records.send(FrameRecord(kind=RecordKind.HEARTBEAT))

    def _detect(self, sample: Sample[FrameHeader]) -> FrameRecord:
        size = self._model.input
        header = sample.header
        if (header.width, header.height) != (size.width, size.height):
            record = record_of_header(header)
            record.kind, record.status = RecordKind.OUTCOME, FrameStatus.FAILED
            record.reason = (
                f"slot of {header.width}x{header.height}, model {self._model.name} needs "
                f"{size.width}x{size.height}: give both nodes the same model"
            ).encode()
            return record
        image = sample.payload.reshape(size.height, size.width, 3)
        record, detections = self._pipeline.detect(header, image)
        if detections is None:
            return record
        self._publish(record, detections)
        return self._pipeline.published(record)

    def _publish(self, record: FrameRecord, detections: Detections) -> None:
        out = self._detections.loan(0)
        header = out.header
        count = header.count = len(detections)
        header.sequence, header.stamp_ns = record.sequence, record.stamp_ns
        header.capture_ns = record.capture_ns
        late = time.monotonic_ns() > record.deadline_ns
        header.status = FrameStatus.LATE if late else FrameStatus.OK
        np.frombuffer(header.boxes, np.float32)[: 4 * count] = detections.boxes.ravel()
        np.frombuffer(header.scores, np.float32)[:count] = detections.scores
        np.frombuffer(header.classes, np.uint32)[:count] = detections.classes
        self._detections.send(out)
        self._publisher.publish(
            write_detection_array(record.stamp_ns, record.frame_id, detections, self._class_names)
        )


def main() -> int:
    """Entry point."""
    return run_node(DetectorNode, "detector_node")


if __name__ == "__main__":
    sys.exit(main())
