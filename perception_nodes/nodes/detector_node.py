"""Detects objects in preprocessed frames, and publishes them, for one camera or several."""

import os
import time
from functools import partial

import numpy as np
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool
from vision_msgs.msg import VisionInfo

from perception_nodes.backends.contract import BackendSettings
from perception_nodes.backends.serving import Serving
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.failover import LONG_NS, PATIENCE_FACTOR
from perception_nodes.core.frame import Detections, FrameRecord, FrameStatus
from perception_nodes.core.pipeline import detect_together
from perception_nodes.core.scheduler import FOREVER_NS, Scheduler, Turn
from perception_nodes.graph.config import DetectorSettings
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.topics import ENABLE, VISION_INFO
from perception_nodes.networks.model import load_model
from perception_nodes.nodes.base import IDLE_WAIT_MS, LATCHED
from perception_nodes.nodes.lane import Lane
from perception_nodes.nodes.redundant import RedundantNode
from perception_nodes.nodes.vision_info import vision_info
from perception_nodes.nodes.watchdog_substitute import WatchdogSubstitute
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.realtime import RANKS


class DetectorNode(RedundantNode):
    """Runs the model on the cameras' newest frames and publishes what it finds."""

    role = "detector"
    rank = RANKS["detector"]
    receives_slots = True
    settings_type: type[DetectorSettings] = DetectorSettings
    _serving: Serving

    def open(self) -> None:
        """Load the model, join the channels."""
        settings: DetectorSettings = self.settings
        cameras = settings.served
        model = load_model(settings.model, settings.model_key)
        models = [model]
        if faster := settings.faster_model(model.fallback):
            fallback = load_model(faster, settings.model_key)
            if (fallback.input, fallback.classes) != (model.input, model.classes):
                why = f"{fallback.name} has another input or other classes than {model.name}"
                raise SettingsError(f"parameter fallback_model: {why}; one frame must do for both")
            models.append(fallback)
        threads, most = settings.threads, len(cameras)
        backend = BackendSettings(threads, str(cache_folder()), most, may_build=False)
        what = settings.backend, models, backend, _decode_settings(settings)
        in_place = cameras if settings.preprocess_on == "gpu" else ()
        serving = self._serving = self.own(Serving(*what, self.get_logger().info, in_place))
        self._model = model
        self._lanes = [Lane(self, camera, model, serving) for camera in cameras]
        self._apply(settings)
        self._infos = [
            self.add_publisher(VisionInfo, settings.topic_of(VISION_INFO, camera), LATCHED)
            for camera in cameras
        ]
        self._waiter = self.endpoint.waiter([lane.slots for lane in self._lanes])
        self._scheduler = Scheduler(len(cameras))
        self._look_again_ns = 0
        slowest_ns = max(call.median_ns for one in serving.candidates for call in one.calls)
        patience_ns = max(round(settings.hang_after_ms * 1e6), PATIENCE_FACTOR * slowest_ns)
        self.longest_ns = max(LONG_NS, patience_ns)
        self.join(patience_ns, cameras)
        self._substitute = self.own(WatchdogSubstitute(self))

    def change(self, settings: DetectorSettings) -> None:
        """Use other thresholds and classes from the next frame on."""
        decode = _decode_settings(settings)
        is_other = decode != _decode_settings(self.settings)
        if settings.preprocess_on == "gpu" and is_other:
            raise SettingsError(
                "score_threshold, iou_threshold and across_classes are part of the GPU's program: "
                "with preprocess_on:=gpu start the graph anew to change them"
            )
        if self.seats:
            self._apply(settings)
            if is_other:
                self._serving.decode_with(decode)

    def _apply(self, settings: DetectorSettings) -> None:
        """Set what the lanes report.

        Raises:
            SettingsError: a class is none of the model's.
        """
        known = self._model.classes
        names = [name.strip() for name in settings.classes.split(",") if name.strip()]
        pairs = [one.rpartition(":") for one in settings.class_thresholds.split(",") if one]
        scores = {name.strip(): float(score) for name, _, score in pairs}
        for parameter, given in (("classes", names), ("class_thresholds", scores)):
            if unknown := sorted({*given} - {*known}):
                model = f"{self._model.name}; known are {', '.join(known)}"
                raise SettingsError(f"parameter {parameter}: {unknown[0]!r} is no class of {model}")
        least = [scores.get(one, 0) if one in (names or known) else np.inf for one in known]
        for lane in self._lanes:
            lane.enabled = settings.enabled
            lane.least_scores = np.array(least, np.float32) if names or scores else None

    def listeners(self) -> int:
        """Subscribers of detections of the first camera."""
        return self._lanes[0].topic.listeners

    def take_over(self, died: bool) -> None:
        """Go on behind the predecessor's last frames."""
        for lane, seat in zip(self._lanes, self.seats, strict=True):
            lane.sit(seat)
        self._publish_infos()
        self._enabling = self.create_service(SetBool, ENABLE, self._on_enable)

    def _publish_infos(self) -> None:
        message = vision_info(self, self._model, self._serving.backend)
        for info in self._infos:
            info.publish(message)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        (result,) = self.set_parameters([Parameter("enabled", value=request.data)])
        response.success, response.message = result.successful, result.reason
        return response

    def rest(self) -> None:
        """Leave the waiting frames to the successor."""
        if self._working:
            self.destroy_service(self._enabling)
        super().rest()
        self._substitute.fall_silent()
        for number, lane in enumerate(self._lanes):
            lane.rest()
            self._scheduler.done(number, served=False)

    def step(self) -> None:
        """Switch to an engine that was built meanwhile, even as a standby, and work."""
        if self._serving.ready():
            with self.busy():
                self._serving.switch()
                for lane in self._lanes:
                    lane.replace(self._serving)
            if self._working:
                self._publish_infos()
        super().step()
        if self.active:  # unless a service has deactivated us meanwhile
            # The standby has the time to speak for the watchdog.
            self._substitute.update(turn=int(self._working))

    def sign(self) -> None:
        """Give a sign of life to the others, also to those that could speak in our place."""
        super().sign()
        self._substitute.sign()

    def work(self) -> None:
        """Detect on the newest frame; with several cameras, on those whose turn it is."""
        if len(self._lanes) == 1:
            self._waiter.wait(IDLE_WAIT_MS)
            (lane,) = self._lanes
            if lane.receive():
                header = lane.header
                self._scheduler.arrived(0, header.preprocessed_ns, header.deadline_ns)
                lane.begin()
                lane.prepare()
                record, found = lane.pipeline.detect(header, lane.frame)
                lane.finish(record, self._look_again(0, record, found))
                self._scheduler.done(0, served=True)
                lane.ask()
                self._rehearse_and_drop(lane)
            return
        until_look_ms = (self._look_again_ns - time.monotonic_ns()) / 1e6
        self._waiter.wait(min(IDLE_WAIT_MS, max(0.0, until_look_ms)))
        for number, lane in enumerate(self._lanes):
            if lane.receive():
                header = lane.header
                self._scheduler.arrived(number, header.preprocessed_ns, header.deadline_ns)
            elif lane.waiting is None:  # a newer frame, which was refused, has replaced it
                self._scheduler.done(number, served=False)
        costs = max(lane.pipeline.costs() for lane in self._lanes)
        turn = self._scheduler.turn(time.monotonic_ns(), costs)
        # Frames that wait behind those of this turn are considered again right after it.
        self._look_again_ns = 0 if turn.cameras else turn.wait_until_ns or FOREVER_NS
        if turn.cameras:
            self._detect(turn)

    def _detect(self, turn: Turn) -> None:
        scheduler = self._scheduler
        lanes = [self._lanes[number] for number in turn.cameras]
        for lane in lanes:
            lane.begin()
            lane.prepare()
        if len(lanes) == 1:
            (lane,) = lanes
            self._serving.candidates[0].inferred_alone(scheduler.waiting)
            record, objects = lane.pipeline.detect(lane.header, lane.frame, turn.finish_by_ns)
            found = iter([(record, self._look_again(turn.cameras[0], record, objects))])
        else:
            found = detect_together([(lane.pipeline, lane.header, lane.frame) for lane in lanes])
        for number, lane, (record, detections) in zip(turn.cameras, lanes, found, strict=True):
            served = record.status != FrameStatus.SKIPPED_LATE  # withheld frames were inferred too
            lane.finish(record, detections)
            scheduler.done(number, served)
        # Report all frames first: a batch that loses the backend loses it for all of them.
        for lane in lanes:
            lane.ask()
            self._rehearse_and_drop(lane)

    def _look_again(
        self, number: int, record: FrameRecord, found: Detections | None
    ) -> Detections | None:
        """All objects of a camera's frame, after second looks if there is time."""
        lane = self._lanes[number]
        if lane.looking is None or found is None:
            return found
        free_ns = self._scheduler.free_until_ns(time.monotonic_ns(), number)
        if free_ns == FOREVER_NS:  # when frames come is not known yet
            return found
        # Preprocessing of the next frame has the processors before it is ready.
        free_ns -= record.preprocessed_ns - record.capture_ns
        next_crop = partial(lane.next_crop, self._frame_waits)
        return lane.looking.again(record, found, lane.header, free_ns, next_crop)

    def _frame_waits(self) -> bool:
        return any(lane.slots.has_samples() for lane in self._lanes)

    def _rehearse_and_drop(self, lane: Lane) -> None:
        """Use the time until the next frame, then release the slot of one that is finished.

        Ends the process if the backend will never work again in it.
        """
        if lane.pipeline.rehearsal_due and not self._frame_waits():
            header = lane.header
            until_ns = self._scheduler.free_until_ns(time.monotonic_ns())
            # Preprocessing of the next frame has the processors before it is ready.
            until_ns -= header.preprocessed_ns - header.capture_ns
            lane.pipeline.rehearse(header, lane.frame, until_ns)
        lane.drop()
        if lane.pipeline.lost is not None:
            self.get_logger().fatal(f"{lane.pipeline.lost}; another process is to work")
            # End at once, as in a crash: closing a lost backend may hang.
            os._exit(1)


def _decode_settings(settings: DetectorSettings) -> DecodeSettings:
    return DecodeSettings(settings.score_threshold, settings.iou_threshold, settings.across_classes)


if __name__ == "__main__":
    DetectorNode.main()
