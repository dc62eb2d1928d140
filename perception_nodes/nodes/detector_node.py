"""Slots in, detections out: the second half of a frame's way."""

import os
import sys

import numpy as np
from vision_msgs.msg import Detection2DArray

from perception_nodes.backends.base import BackendSettings
from perception_nodes.backends.model import load_model
from perception_nodes.backends.serving import Serving
from perception_nodes.config import DetectorSettings, SettingsError
from perception_nodes.core.clock import SystemClock
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import (
    Detections,
    FrameHeader,
    FrameRecord,
    FrameRejected,
    FrameStatus,
    RecordKind,
    check_slot,
    record_of_header,
)
from perception_nodes.core.pipeline import Pipeline
from perception_nodes.environment import cache_folder
from perception_nodes.nodes.base import IDLE_WAIT_MS, run_node
from perception_nodes.nodes.redundant import RedundantNode
from perception_nodes.transport import channels
from perception_nodes.transport.cdr import write_detection_array
from perception_nodes.transport.shm import Sample

QUEUE_DEPTH = 10
PATIENCE_FACTOR = 4
"""A frame that takes so many times what the slowest model is expected to take is a hang."""


class DetectorNode(RedundantNode):
    """Runs the model on the newest frame and publishes what it finds."""

    role = "detector"
    speaks_for_watchdog = True
    settings_type = DetectorSettings
    _serving: Serving | None = None

    def open(self) -> None:
        """Load the model, join the channels."""
        settings: DetectorSettings = self.settings
        self._model = model = load_model(settings.model)
        self._class_names = [name.encode() for name in model.classes]
        models = [model]
        if settings.fallback_model:
            fallback = load_model(settings.fallback_model)
            if (fallback.input, fallback.classes) != (model.input, model.classes):
                raise SettingsError(
                    f"parameter fallback_model: {fallback.name} has another input or other classes "
                    f"than {model.name}; one frame must do for both"
                )
            models.append(fallback)
        self._serving = serving = Serving(
            settings.backend,
            models,
            BackendSettings(settings.threads, str(cache_folder()), may_build=False),
            DecodeSettings(settings.score_threshold, settings.iou_threshold),
            self.get_logger().info,
        )
        self._pipeline = Pipeline(
            serving.candidates, SystemClock(), settings.skip_late, serving.standing_in
        )
        self._publisher = self.add_publisher(
            Detection2DArray, settings.detections_topic, QUEUE_DEPTH
        )
        self._slots = channels.slot_reader(self.endpoint, settings.camera)
        self._detections = channels.detection_writer(self.endpoint, settings.camera)
        slowest_ns = max(candidate.inference.median_ns for candidate in serving.candidates)
        self.join(max(round(settings.hang_after_ms * 1e6), PATIENCE_FACTOR * slowest_ns))
        self._newest_ns = 0

    def close(self) -> None:
        """Drop the models, give the lease back."""
        super().close()
        if self._serving is not None:
            self._serving.close()
            self._serving = None

    def listeners(self) -> int:
        """Subscribers of detections."""
        return int(self._publisher.get_subscription_count())

    def take_over(self) -> None:
        """Go on behind the frame that the predecessor took last: it may have died of that one."""
        self._newest_ns = self.lease.note.ingested_ns

    def step(self) -> None:
        """Go over to what was built meanwhile, also as a standby; work."""
        if self._serving.ready():
            with self.busy():
                self._serving.switch()
                self._pipeline.replace(self._serving.candidates, self._serving.standing_in)
        super().step()

    def work(self) -> None:
        """Detect on the newest frame; the ledger knows that older ones were let go."""
        self._slots.wait(IDLE_WAIT_MS)
        sample = self._newest()
        if sample is not None:
            header = sample.header
            self._newest_ns = header.ingested_ns
            self.lease.begin(header.ingest_process, header.sequence, header.ingested_ns)
            self.lease.note.listeners = self.listeners()
            self.records.send(self._detect(sample))
            self.lease.end()
            sample.release()
            if self._pipeline.lost is not None:
                self.get_logger().fatal(f"{self._pipeline.lost}; another process is to work")
                # At once, as in a crash: to close what is lost may hang.
                os._exit(1)

    def _newest(self) -> Sample[FrameHeader] | None:
        """The newest waiting frame, whichever process it is from; older ones are let go."""
        newest = None
        while (sample := self._slots.receive()) is not None:
            if sample.header.ingested_ns <= self._newest_ns:
                sample.release()
            elif newest is None or sample.header.ingested_ns > newest.header.ingested_ns:
                if newest is not None:
                    newest.release()
                newest = sample
            else:
                sample.release()
        return newest

    def _detect(self, sample: Sample[FrameHeader]) -> FrameRecord:
        size = self._model.input
        header = sample.header
        try:
            check_slot(header, sample.payload.nbytes, size.width, size.height)
        except FrameRejected as error:
            record = record_of_header(header)
            record.kind, record.status = RecordKind.OUTCOME, FrameStatus.FAILED
            record.reason = str(error).encode()
            return record
        image = sample.payload.reshape(size.height, size.width, 3)
        record, detections = self._pipeline.detect(header, image)
        if detections is None:
            return record
        late = self._pipeline.status_of(record) == FrameStatus.LATE
        if late and not self.settings.publish_late:
            return self._pipeline.withheld(record)
        self._publish(record, detections)
        return self._pipeline.published(record)

    def _publish(self, record: FrameRecord, detections: Detections) -> None:
        out = self._detections.loan(0)
        header = out.header
        count = header.count = len(detections)
        header.sequence, header.stamp_ns = record.sequence, record.stamp_ns
        header.capture_ns = record.capture_ns
        header.status = self._pipeline.status_of(record)
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
