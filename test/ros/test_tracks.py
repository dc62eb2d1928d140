"""Tracks of a running tracker: one message a frame, and none of its troubles are the graph's."""

import os
import signal
import time

import numpy as np
import pytest
from observe import until
from perception_interfaces.msg import Track, Tracks
from rclpy.serialization import deserialize_message
from recorder import Recorder
from rosgraph_msgs.msg import Clock
from vision_msgs.msg import Detection2DArray

from perception_nodes.core.frame import DetectionRecord, Detections, FrameStatus
from perception_nodes.graph.graph import TRACKER, Graph
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.nodes.consumed_topic import ConsumedTopic
from perception_nodes.protection.consumer import State, Verdict
from perception_nodes.report.recording import nanoseconds
from perception_nodes.transport import channels
from perception_nodes.transport.shm import Endpoint

pytestmark = [pytest.mark.ros]
PERIOD_NS = 50_000_000
BOX = np.array([[100.0, 100.0, 180.0, 160.0]])


class Rig:
    """A tracker alone, a detector in the place of the graph's, and a subscriber."""

    AGE_NS = 5_000_000

    def __init__(self, **values):
        (self.spec,) = Graph((TRACKER,)).nodes({"tracks": True, "standby": "never", **values})
        self._supervisor = Supervisor([self.spec])
        self._supervisor.__enter__()
        self._endpoint = Endpoint("detector")
        self._writer = channels.detection_writer(self._endpoint, "front")
        self._recorder = Recorder()
        hear = self._recorder.hear
        self.tracks = hear("perception/tracks", Tracks, 100)
        self.detections = hear("perception/tracked_detections", Detection2DArray, 100)
        self.verdicts: list[Verdict] = []
        self._node = self._recorder.node
        ConsumedTopic(self._node, "/perception/tracks", self.verdicts.append)
        self.sequence = 0

    def close(self):
        self._supervisor.__exit__()
        self._endpoint.close()
        self._recorder.close()

    def frame(self, label=0, sender=None):
        """One object, in a frame that was captured `AGE_NS` ago."""
        record = DetectionRecord(sequence=self.sequence, status=FrameStatus.OK, incarnation=1)
        record.stamp_ns = self.recorded_ns() - self.AGE_NS
        record.capture_ns = time.monotonic_ns() - self.AGE_NS
        record.ingested_ns = time.monotonic_ns()
        record.deadline_ns = record.capture_ns + 150_000_000
        record.frame_id = b"camera"
        record.hold(Detections(BOX, np.array([0.9]), np.array([label])))
        (sender or self._writer).send_record(record)
        self.sequence += 1

    def recorded_ns(self):
        """The clock of the stamps."""
        return time.time_ns()

    def spin(self, seconds):
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self._recorder.spin(left_s)

    def until(self, condition, act=lambda: None):
        def meanwhile():
            act()
            self.spin(PERIOD_NS / 1e9)

        until(condition, meanwhile=meanwhile)

    @property
    def process(self) -> int:
        return self._supervisor.processes[0][1].pid

    def of_frames(self):
        return [message for message in self.tracks if not message.coasted]


@pytest.fixture
def rig(domain, closed):
    return closed(Rig())


class SlowRig(Rig):
    """Frames of a drive that is played at a fifth of its speed: 25 a recorded second."""

    RATE, PERIOD_NS, AGE_NS = 0.2, 40_000_000, 2_000_000

    def __init__(self):
        super().__init__(use_sim_time=True)
        self._clock = self._node.create_publisher(Clock, "/clock", 1)
        self._began_ns, self.start_ns = time.monotonic_ns(), 10**15
        self._next_ns = self.recorded_ns()
        self._node.create_timer(0.01, self._tick)
        self.came_ns: list[int] = []
        """When each message of `tracks` came, by the recorded clock."""

    def recorded_ns(self):
        return self.start_ns + round(self.RATE * (time.monotonic_ns() - self._began_ns))

    def frames(self):
        """Send frames, each as old as `AGE_NS`, until none is due."""
        while self._next_ns <= self.recorded_ns():
            self.frame()
            self._next_ns += self.PERIOD_NS

    def _tick(self):
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(self.recorded_ns(), 10**9)
        self._clock.publish(message)
        self.frames()
        new = len(self.tracks) - len(self.came_ns)
        self.came_ns += [self.recorded_ns()] * new


def test_one_message_a_frame_plain_and_protected_a_gap_coasts_and_a_wrong_class_is_reported(rig):
    rig.until(lambda: rig.of_frames() and rig.detections, rig.frame)
    last = rig.sequence + 20
    first = rig.sequence
    rig.until(lambda: rig.sequence == last, rig.frame)
    rig.until(lambda: rig.of_frames()[-1].sequence == last - 1)
    numbers = [m.sequence for m in rig.of_frames()]
    assert numbers[numbers.index(first) :] == list(range(first, last))
    newest = rig.of_frames()[-1]
    (track,) = newest.tracks
    assert track.state == Track.TRACKED
    assert (newest.header.frame_id, newest.camera) == ("camera", "front")
    assert nanoseconds(newest.predicted_to) - nanoseconds(newest.header.stamp) >= 5_000_000
    assert rig.detections[-1].detections[0].id == str(track.id)

    rig.until(lambda: rig.tracks[-1].coasted and not rig.tracks[-1].tracks)
    coasted = [m for m in rig.tracks if m.coasted and m.sequence == last - 1 and m.tracks]
    variances = [m.tracks[0].box_variance[0] for m in coasted]
    assert len(coasted) > 2 and (np.diff(variances) > 0).all()
    assert {m.tracks[0].id for m in coasted} == {track.id}
    assert all(m.reason.startswith("no detections for ") for m in coasted)
    assert rig.tracks[-1].reason.endswith(": all tracks have ended")

    count = len(rig.verdicts)
    usable = [v.message for v in rig.verdicts if v.message is not None]
    assert {v.state for v in rig.verdicts} <= {State.OK, State.LATE} and len(usable) > 0.8 * count
    read = [deserialize_message(message, Tracks) for message in usable]
    assert {message.coasted for message in read} == {False, True}
    assert [m for m in rig.tracks if m in read] == read

    # A class of another model: its detections are not used, and what else is unusual is known too.
    wrong = rig.sequence
    rig.frame(label=4_000_000_000)
    rig.until(lambda: rig.of_frames()[-1].sequence == wrong)
    reason = rig.of_frames()[-1].reason
    assert "no detections for 1." in reason and ": all tracks have ended; class" in reason
    assert "another model" in reason
    rig.until(
        lambda: rig.of_frames()[-1].sequence > wrong and rig.of_frames()[-1].tracks, rig.frame
    )
    assert rig.of_frames()[-1].reason == ""


def test_time_is_that_of_a_drive_that_is_played_slowly_and_begins_anew(domain, closed):
    rig = closed(SlowRig())
    film = rig.frames

    def coasts_and_ends():
        rig.frames = lambda: None  # type: ignore[method-assign]
        rig.until(lambda: rig.tracks[-1].coasted and not rig.tracks[-1].tracks)
        last = rig.of_frames()[-1]
        coasted = [m for m in rig.tracks if m.coasted and m.sequence == last.sequence and m.tracks]
        assert 4 <= len(coasted) <= 6, "every 150 ms of a second"

    rig.until(lambda: len(rig.of_frames()) > 5)
    first = len(rig.came_ns)
    rig.until(lambda: len(rig.came_ns) > first + 10)
    assert not [m.reason for m in rig.tracks[first:] if m.coasted], "a frame came every 40 ms"
    coasts_and_ends()
    for message, came_ns in zip(rig.tracks[first:], rig.came_ns[first:], strict=False):
        assert nanoseconds(message.predicted_to) < came_ns + SlowRig.PERIOD_NS / 4
    rig.frames = film  # type: ignore[method-assign]
    rig.until(lambda: rig.tracks[-1].tracks and not rig.tracks[-1].coasted)
    rig.start_ns -= 60_000_000_000
    coasts_and_ends()


def test_frames_that_waited_are_taken_in_order_and_no_identity_is_given_twice(rig, join):
    """While a standby of the detector took over, and by a tracker that was killed."""
    predecessor = channels.detection_writer(join(), "front")  # which has started later
    rig.until(
        lambda: rig.of_frames() and rig.of_frames()[-1].tracks,
        lambda: rig.frame(sender=predecessor),
    )
    first = rig.sequence
    os.kill(rig.process, signal.SIGSTOP)
    for sender in [predecessor] * 3 + [rig._writer] * 3:
        rig.frame(sender=sender)
    os.kill(rig.process, signal.SIGCONT)
    rig.until(lambda: len([m for m in rig.of_frames() if m.sequence >= first]) == 6)
    waited = [m for m in rig.of_frames() if m.sequence >= first]
    assert [m.sequence for m in waited] == list(range(first, first + 6))
    assert {m.reason for m in waited} == {""}
    assert len({t.id for m in waited for t in m.tracks}) == 1

    before = max(t.id for m in rig.tracks for t in m.tracks)
    os.kill(rig.process, signal.SIGKILL)
    spec, dead = rig._supervisor.processes[0]
    dead.wait()
    rig._supervisor.processes[0] = (spec, rig._supervisor._start(spec))
    first = rig.sequence  # what the dead one has published may still come
    rig.until(lambda: rig.of_frames()[-1].sequence > first, rig.frame)
    assert min(t.id for t in rig.of_frames()[-1].tracks) > before
