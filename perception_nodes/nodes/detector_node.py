"""Slots in, detections out: the second half of a frame's way, for one camera or several."""

import sys
import time
from collections.abc import Callable
from typing import cast

import numpy as np

from perception_nodes.backends.base import Backend, BackendSettings, open_backend
from perception_nodes.backends.model import Model, load_model
from perception_nodes.config import DetectorSettings, SettingsError
from perception_nodes.core.decode import Decoder, DecodeSettings
from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.pipeline import BatchBackend, Candidate, detect_together
from perception_nodes.core.scheduler import Scheduler, Turn
from perception_nodes.environment import cache_folder
from perception_nodes.nodes.base import IDLE_WAIT_MS, run_node
from perception_nodes.nodes.lane import Lane
from perception_nodes.nodes.redundant import RedundantNode

TIMED_CALLS = 10
"""Enough for one of them to run where others do not start beside us."""
PATIENCE_FACTOR = 4
"""A call that takes so many times what the slowest one is expected to take is a hang."""
FOREVER_NS = 1 << 62


class DetectorNode(RedundantNode):
    """Runs the model on the cameras' newest frames and publishes what it finds."""

    role = "detector"
    speaks_for_watchdog = True
    settings_type = DetectorSettings

    def open(self) -> None:
        """Load the model, join the channels."""
        settings: DetectorSettings = self.settings
        cameras = settings.served
        model = load_model(settings.model)
        self._backends: list[Backend] = []
        self._best = self._candidate(model, max_batch=len(cameras))
        candidates = [self._best]
        if settings.fallback_model:
            fallback = load_model(settings.fallback_model)
            if (fallback.input, fallback.classes) != (model.input, model.classes):
                raise SettingsError(
                    f"parameter fallback_model: {fallback.name} has another input or other classes "
                    f"than {model.name}; one frame must do for both"
                )
            candidates.append(self._candidate(fallback, max_batch=1))
        self._lanes = [Lane(self, camera, model, candidates) for camera in cameras]
        self._wait: Callable[[float], None] = self._lanes[0].slots.wait
        self._scheduler: Scheduler | None = None
        if len(cameras) > 1:
            self._scheduler = Scheduler(len(cameras))
            self._wait = self.endpoint.waiter([lane.slots for lane in self._lanes]).wait
        self._look_again_ns = 0
        slowest_ns = max(call.median_ns for one in candidates for call in one.calls)
        patience_ns = max(round(settings.hang_after_ms * 1e6), PATIENCE_FACTOR * slowest_ns)
        self.join(patience_ns, cameras)

    def close(self) -> None:
        """Drop the models, give the leases back."""
        super().close()
        for backend in getattr(self, "_backends", []):
            backend.close()

    def _candidate(self, model: Model, max_batch: int) -> Candidate:
        """Load a model and see what it costs."""
        settings: DetectorSettings = self.settings
        backend = open_backend(
            settings.backend, BackendSettings(settings.threads, str(cache_folder()), max_batch)
        )
        self._backends.append(backend)
        info = backend.load(model)
        decoder = Decoder(
            model.input.width,
            model.input.height,
            model.outputs.strides,
            model.outputs.reg_max,
            DecodeSettings(settings.score_threshold, settings.iou_threshold),
        )
        image = np.zeros((model.input.height, model.input.width, 3), np.uint8)
        inference_ns = shortest_ns(lambda: backend.infer(image))
        several = cast(BatchBackend, backend)
        batches_ns = [
            shortest_ns(lambda size=size: several.infer_batch([image] * size))
            for size in range(2, info.max_batch + 1)
        ]
        times = [f"{inference_ns / 1e6:.1f} ms"]
        times += [f"{size} at once {ns / 1e6:.1f}" for size, ns in enumerate(batches_ns, 2)]
        self.get_logger().info(
            f"{model.name} ({model.precision}, {model.input.width}x{model.input.height}) on "
            f"{info.runtime}, {info.device}, {info.threads} threads: {', '.join(times)}"
        )
        return Candidate(model.name, backend, decoder, inference_ns, several, batches_ns)

    def listeners(self) -> int:
        """Subscribers of detections of the first camera."""
        return int(self._lanes[0].publisher.get_subscription_count())

    def take_over(self) -> None:
        """Go on behind the frames that the predecessor took last."""
        for lane, seat in zip(self._lanes, self.seats, strict=True):
            lane.sit(seat)

    def rest(self) -> None:
        """Leave the frames that wait to the next one."""
        super().rest()
        for number, lane in enumerate(self._lanes):
            lane.drop()
            if self._scheduler is not None:
                self._scheduler.done(number, served=False)

    def work(self) -> None:
        """Detect on the newest frame; of several cameras on those whose turn it is."""
        if self._scheduler is None:
            self._wait(IDLE_WAIT_MS)
            (lane,) = self._lanes
            if lane.receive():
                lane.begin()
                lane.finish(*lane.pipeline.detect(lane.header, lane.image))
            return
        until_look_ms = (self._look_again_ns - time.monotonic_ns()) / 1e6
        self._wait(min(IDLE_WAIT_MS, max(0.0, until_look_ms)))
        for number, lane in enumerate(self._lanes):
            if lane.receive():
                header = lane.header
                self._scheduler.arrived(number, header.preprocessed_ns, header.deadline_ns)
            elif lane.waiting is None:  # one that was refused has taken its place
                self._scheduler.done(number, served=False)
        costs = max(lane.pipeline.costs() for lane in self._lanes)
        turn = self._scheduler.turn(time.monotonic_ns(), costs)
        # What waits behind those whose turn it is now is looked at again right after.
        self._look_again_ns = 0 if turn.cameras else turn.wait_until_ns or FOREVER_NS
        if turn.cameras:
            self._detect(turn, self._scheduler)

    def _detect(self, turn: Turn, scheduler: Scheduler) -> None:
        lanes = [self._lanes[number] for number in turn.cameras]
        for lane in lanes:
            lane.begin()
        if len(lanes) == 1:
            (lane,) = lanes
            self._best.inferred_alone(scheduler.waiting)
            found = iter([lane.pipeline.detect(lane.header, lane.image, turn.finish_by_ns)])
        else:
            found = detect_together([(lane.pipeline, lane.header, lane.image) for lane in lanes])
        for number, lane, (record, detections) in zip(turn.cameras, lanes, found, strict=True):
            lane.finish(record, detections)
            scheduler.done(number, served=record.status != FrameStatus.SKIPPED_LATE)


def shortest_ns(call: Callable[[], object]) -> int:
    """The shortest that a call takes."""
    durations_ns = []
    for _ in range(TIMED_CALLS):
        started_ns = time.monotonic_ns()
        call()
        durations_ns.append(time.monotonic_ns() - started_ns)
    return min(durations_ns)


def main() -> int:
    """Entry point."""
    return run_node(DetectorNode, "detector_node")


if __name__ == "__main__":
    sys.exit(main())
