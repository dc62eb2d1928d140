"""Follows the objects that the detector finds, and says where they are by now.

It reads the detections in shared memory as one more reader. Its priority is below the detector's.
Without real-time priority it takes the processor from nobody when it wakes.
"""

import ctypes
import os
import time

from perception_interfaces.msg import Tracks as TracksMessage
from vision_msgs.msg import Detection2DArray

from perception_nodes.core.clock import Clock, capture_time
from perception_nodes.core.frame import DetectionRecord, Detections
from perception_nodes.graph.config import TrackerSettings
from perception_nodes.graph.topics import TRACKED_DETECTIONS, TRACKS
from perception_nodes.networks.model import load_model
from perception_nodes.nodes.base import IDLE_WAIT_MS, PerceptionNode
from perception_nodes.nodes.ros_time import ros_clock
from perception_nodes.system.realtime import RANKS
from perception_nodes.tracking.tracker import CLOCK_STEP_NS, Tracker
from perception_nodes.tracking.tracks import TrackingSettings
from perception_nodes.transport import channels
from perception_nodes.transport.cdr_writer import write_detection_array, write_tracks
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, Mapped

QUEUE_DEPTH = 10
MS = 1_000_000
REPEAT_ERROR_S = 10.0


ID_LIMIT = 1 << 63
"""A larger identity comes from a damaged file: nobody has seen so many objects."""


class _NextId(ctypes.Structure):
    """The identity with which a successor goes on, so that none is given twice."""

    _fields_ = [("next_id", ctypes.c_uint64)]


class TrackerNode(PerceptionNode):
    """Publishes the tracks of each camera."""

    settings_type = TrackerSettings
    rank = RANKS["tracker"]

    def open(self) -> None:
        """Join the channels, announce the topics."""
        settings: TrackerSettings = self.settings
        model = load_model(settings.model, settings.model_key)
        names = tuple(name.encode() for name in model.classes)
        clock = ros_clock(self)
        self._cameras = [FollowedCamera(self, camera, names, clock) for camera in settings.served]
        self._waiter = self.endpoint.waiter([camera.reader for camera in self._cameras])

    def begin_real_time(self) -> None:
        """Without real-time priority, do not push others aside."""
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        super().begin_real_time()

    def step(self) -> None:
        """Publish the tracks of each new frame, and of cameras without one."""
        self._waiter.wait(IDLE_WAIT_MS)
        for camera in self._cameras:
            camera.step()


class FollowedCamera:
    """The tracks of one camera.

    Attributes:
        reader: channel of its detections.
    """

    def __init__(
        self, node: PerceptionNode, camera: str, class_names: tuple[bytes, ...], clock: Clock
    ) -> None:
        """Join the camera's channel and announce its topics, for the tracker's node."""
        settings: TrackerSettings = node.settings
        self._clock = clock
        # The clock of the stamps: a drive's may go slowly, and the system's may step.
        self._now_ns = clock.realtime_ns if settings.use_sim_time else clock.monotonic_ns
        self._node, self._camera, self._names = node, camera, class_names
        self.reader = channels.detection_reader(node.endpoint, camera)
        # The file of the next identity stays.
        self._mapped = node.own(Mapped(SHM_FOLDER / f"{own_prefix()}{camera}.tracks", _NextId))
        self._tracker = Tracker(
            len(class_names),
            TrackingSettings(max_unseen_s=settings.tracks_unseen_ms / 1e3),
            max(1, self._mapped.value.next_id % ID_LIMIT),
        )
        tracks, tracked = (settings.topic_of(name, camera) for name in (TRACKS, TRACKED_DETECTIONS))
        self._tracks = node.add_protected(TracksMessage, tracks, QUEUE_DEPTH)
        self._detections = node.add_publisher(Detection2DArray, tracked, QUEUE_DEPTH)
        self._last: DetectionRecord | None = None
        self._taken_ns = self._age_ns = self._seen_ns = 0
        self._coast_at_ns: int | None = None

    def step(self) -> None:
        """Publish the tracks of each frame that has come; predictions while none comes."""
        now_ns = self._now_ns()
        back_ns, self._seen_ns = self._seen_ns - now_ns, now_ns
        if back_ns >= CLOCK_STEP_NS and self._coast_at_ns is not None:
            # A drive begins anew. Time goes on until its first frame, or nothing would coast.
            self._taken_ns -= back_ns
            self._coast_at_ns -= back_ns
        # Frames of a successor may be read before those of its predecessor.
        for record in sorted(self.reader.records(), key=lambda record: record.ingested_ns):
            self._take(record)
        now_ns = self._now_ns()
        if self._last is not None and self._coast_at_ns is not None and now_ns >= self._coast_at_ns:
            self._tracker.coast(now_ns - self._taken_ns)
            self._publish(self._last, now_ns, coasted=True)

    def _take(self, record: DetectionRecord) -> None:
        detections, last = record.detections(), self._last
        without = 0
        if last is not None and last.incarnation == record.incarnation:
            without = max(0, record.sequence - last.sequence - 1)
        if wrong := self._other_model(detections):
            detections = Detections.none()
        ids = self._tracker.take(_time_of(record), detections, without)
        if wrong:
            self._tracker.reason = "; ".join(filter(None, (self._tracker.reason, wrong)))
        self._mapped.value.next_id = self._tracker.next_id
        self._last, self._taken_ns = record, self._now_ns()
        self._age_ns = self._age_of(record)
        self._publish(record, self._taken_ns, coasted=False)
        head, ids = (record.stamp_ns, record.frame_id), ids.tolist()
        self._detections.publish(write_detection_array(*head, detections, self._names, ids))

    def _publish(self, record: DetectionRecord, now_ns: int, coasted: bool) -> None:
        """Publish the tracks; once more when none is left."""
        settings: TrackerSettings = self._node.settings
        time_ns = _time_of(record) + round(settings.tracks_ahead_ms * MS)
        if coasted or settings.tracks_time == "publish":
            time_ns += self._age_ns + now_ns - self._taken_ns
        tracks = self._tracker.at(time_ns)
        message = write_tracks(record, self._camera, tracks, self._names, coasted)
        coast_ns = round(settings.tracks_coast_ms * MS)
        deadline_ns = time.monotonic_ns() + coast_ns if coasted else record.deadline_ns
        self._tracks.publish(message, deadline_ns)
        # There is no time to count from before the first message of `/clock`.
        self._coast_at_ns = now_ns + coast_ns if len(tracks) and now_ns else None

    def _age_of(self, record: DetectionRecord) -> int:
        """How long ago the frame was captured, by the clock of the stamps."""
        now_ns, capture_ns = self._clock.monotonic_ns(), int(record.capture_ns)
        if self._node.settings.use_sim_time:
            realtime_ns, behind_ns = self._clock.realtime_ns(), self._clock.behind_ns
            seen = capture_time(record.stamp_ns, now_ns, realtime_ns, behind_ns)
            capture_ns = capture_ns if seen.clock_suspect else seen.capture_ns
        return now_ns - capture_ns

    def _other_model(self, detections: Detections) -> str:
        """What is wrong if a detection has a class that this node's model lacks; else empty."""
        label, known = int(detections.classes.max(initial=0)), len(self._names)
        if label < known:
            return ""
        settings: TrackerSettings = self._node.settings
        other = (
            f"class {label} is none of the {known} of {settings.model}: the detector has another"
        )
        text = f"{other} model, its detections are not used; start both with the same model"
        said = f"{self._camera}: {text}"
        self._node.get_logger().error(said, throttle_duration_sec=REPEAT_ERROR_S)
        return text


def _time_of(record: DetectionRecord) -> int:
    """The time of a frame by its stamp, or by its receipt if its camera gives no stamps."""
    return int(record.stamp_ns or record.capture_ns)


if __name__ == "__main__":
    TrackerNode.main()
