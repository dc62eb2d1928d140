"""Two cameras that share a detector: each frame of each is accounted for, whatever happens."""

import os
import signal
import time
from contextlib import closing

import numpy as np
import pytest
import stub_gpu
from beside import beside
from filming import send_frame, stamp_ns
from perception_interfaces.msg import FrameReport, Health
from rclpy.qos import QoSProfile
from recorder import EVERY_STATE, Recorder
from std_msgs.msg import Bool
from vision_msgs.msg import Detection2DArray

from perception_nodes.cameras.channel import camera_writer
from perception_nodes.faults import faulty_backend as faulty
from perception_nodes.faults.inject import obeying
from perception_nodes.graph.graph import LIVE
from perception_nodes.transport.lease import Lease
from perception_nodes.transport.shm import Endpoint

pytestmark = [pytest.mark.ros, pytest.mark.slow]
CAMERAS = ("front", "rear")
SIZE = (120, 160)
PERIOD_S = 0.04
MOST = 0.5
"""Share of frames that are published whatever else runs; the others are superseded."""
PUBLISHED = (FrameReport.OK, FrameReport.LATE, FrameReport.DEGRADED)


class Vehicle:
    """Both cameras, and all that is said of them."""

    def __init__(self, supervisor):
        self.supervisor = supervisor
        self._endpoint = Endpoint("vehicle")
        size = 3 * SIZE[0] * SIZE[1]
        self._cameras = [camera_writer(self._endpoint, name, size) for name in CAMERAS]
        self._random = np.random.default_rng(0)
        self.sent = dict.fromkeys(CAMERAS, 0)
        self.lost: dict[str, int] = {}
        self._recorder = Recorder()
        self.reports = self._heard("frame_report", FrameReport, QoSProfile(depth=1000))
        self.detections = self._heard("detections", Detection2DArray, QoSProfile(depth=100))
        self.healths = self._heard("health", Health, EVERY_STATE)
        self._recorder.subscribe("/perception/safe_stop", Bool, EVERY_STATE)
        self._first_watchdog = self.watchdog()
        self.until(self.is_complete)
        while not all(self.detections.values()):  # until we are known to who publishes them
            self.film(1)

    def _heard(self, topic, kind, qos):
        """What comes on a topic of each camera."""
        names = {camera: f"/perception/{camera}/{topic}" for camera in CAMERAS}
        return {camera: self._recorder.hear(name, kind, qos) for camera, name in names.items()}

    @property
    def stops(self) -> list[bool]:
        """All requests to stop, and their ends."""
        return [message.data for message in self._recorder.got["/perception/safe_stop"]]

    def is_complete(self):
        """Whether the watchdog misses no process."""
        return all(h and not h[-1].silent_processes for h in self.healths.values())

    def close(self):
        self._recorder.close()
        self._endpoint.close()

    def until(self, condition):
        """Take what is said until it is so."""
        self._recorder.until(
            condition, lambda: (self.sent, [h[-1:] for h in self.healths.values()])
        )

    def film(self, frames, cameras=CAMERAS):
        """Send frames of these cameras, at the same time each."""
        for _ in range(frames):
            due_s = time.monotonic() + PERIOD_S
            while (left_s := due_s - time.monotonic()) > 0:
                self._recorder.spin(left_s)
            for name, writer in zip(CAMERAS, self._cameras, strict=True):
                if name in cameras:
                    pixels = self._random.integers(0, 256, (*SIZE, 3), np.uint8)
                    send_frame(writer, self.sent[name], pixels, name, self.lost.pop(name, 0))
                    self.sent[name] += 1

    def lose(self, name, frames):
        """Let a camera lose frames: it counts them, and tells with its next one."""
        self.sent[name] += frames
        self.lost[name] = frames

    def settle(self):
        """Until all that was sent is accounted for; no frame twice, none as another camera's."""
        for name in CAMERAS:
            self.until(
                lambda name=name: (
                    self.healths[name][-1].frames_in >= self.sent[name]
                    and self.healths[name][-1].in_flight == 0
                    and len(self._frames(name)) >= self.sent[name]
                )
            )
            last, reports, frames = self.healths[name][-1], self.reports[name], self._frames(name)
            passed = last.ok + last.late + last.skipped_late
            counted = passed + last.superseded + last.degraded + last.failed
            assert self.sent[name] == last.frames_in == counted == len(frames)
            # A watchdog that is killed while a report goes out leaves its successor to repeat it.
            assert len(reports) - len(frames) <= (self.watchdog() != self._first_watchdog)
            assert {(r.camera, r.header.frame_id) for r in reports if stamp_ns(r)} == {(name, name)}

    def strike_detector(self, number):
        """Strike who detects, and film until another one does for all cameras."""
        victim = self.detector()
        os.kill(victim, number)
        self.film(15)
        self.until(lambda: self.detector() not in (victim, 0))
        self.until(self.is_complete)  # the next death finds a standby
        self.film(15)
        self.settle()
        assert all(self.reports[name][-1].status in PUBLISHED for name in CAMERAS)

    def _frames(self, name):
        """The frames reported; a preprocess process that takes over numbers its frames anew."""
        return {(report.sequence, report.ingested_ns) for report in self.reports[name]}

    def watchdog(self):
        """The process that runs as the watchdog."""
        return next(p.pid for s, p in self.supervisor.processes if s.name == "watchdog_node")

    def detector(self):
        """The detector that works for all cameras, 0 while one takes over."""
        leases = [Lease(name, "detector") for name in CAMERAS]
        holders = {int(lease.note.process) for lease in leases}
        for lease in leases:
            lease.close()
        return holders.pop() if len(holders) == 1 else 0


@pytest.fixture
def drive():
    """Runs a scenario beside a graph; the graph is waited for in this thread."""

    def run(scenario, orders=None, **values):
        chosen = {"backend": "null", "source": "shm", "deadline_ms": 900.0, **values}
        chosen["cameras"] = ",".join(CAMERAS)

        def act(supervisor):
            with closing(Vehicle(supervisor)) as vehicle:
                scenario(vehicle)

        specs = LIVE.nodes(chosen)
        if orders is not None:
            detectors = [spec for spec in specs if spec.executable == "detector_node"]
            specs = [obeying(spec, orders) if spec in detectors else spec for spec in specs]
        beside(specs, act)

    yield run


@pytest.fixture
def order(tmp_path):
    """Orders to the faulty backend, whose calls take 15 ms, for one frame or for two."""
    path = tmp_path / "orders.json"

    def write(**orders):
        faulty.Orders(call_ms=15.0, **orders).write(path)
        return path

    return write


def together(vehicle):
    """How many calls were of a frame of each camera: they have returned at the same instant."""
    front, rear = ({r.inferred_ns for r in vehicle.reports[name]} - {0} for name in CAMERAS)
    return len(front & rear)


def test_each_camera_has_its_own_detections_and_reports(drive):
    def scenario(vehicle):
        vehicle.film(20)
        vehicle.lose("front", 3)
        vehicle.film(20)
        vehicle.settle()
        for name, lost in (("front", 3), ("rear", 0)):
            failed = [r for r in vehicle.reports[name] if r.status == FrameReport.FAILED]
            assert [r.reason for r in failed] == ["lost by the camera or its driver"] * lost
            published = [stamp_ns(r) for r in vehicle.reports[name] if r.status in PUBLISHED]
            assert len(published) >= 10
            heard = vehicle.detections[name]
            vehicle.until(lambda heard=heard, last=published[-1]: stamp_ns(heard[-1]) == last)
            assert [*map(stamp_ns, heard)] == published[-len(heard) :]
        assert False in vehicle.stops

    drive(scenario, backend="openvino", standby="never")


def test_a_gpu_reads_the_frames_of_each_camera_in_place(drive, tmp_path, monkeypatch):
    def scenario(vehicle):
        vehicle.film(40)
        vehicle.settle()
        for name in CAMERAS:
            published = [r for r in vehicle.reports[name] if r.status in PUBLISHED]
            assert len(published) >= 10
            assert {r.copies for r in published} == {0}
            assert {r.status for r in vehicle.reports[name]} <= {*PUBLISHED, FrameReport.SUPERSEDED}

    stub_gpu.install(tmp_path, monkeypatch, stub_gpu.EMPTY_ROAD)
    stub_gpu.build("open-xs")
    values = {"backend": "tensorrt", "preprocess_on": "gpu", "model": "open-xs"}
    drive(scenario, standby="never", **values)


def test_standbys_take_over_all_cameras_or_the_one_that_needs_it(drive):
    def scenario(vehicle):
        vehicle.film(15)
        lease = Lease("front", "preprocess")
        victim = int(lease.note.process)
        os.kill(victim, signal.SIGKILL)
        vehicle.film(15)
        vehicle.until(lambda: lease.note.process not in (victim, 0))
        lease.close()
        vehicle.film(15)
        vehicle.settle()
        rear = [report.status for report in vehicle.reports["rear"]]
        assert FrameReport.FAILED not in rear
        assert sum(status in PUBLISHED for status in rear) >= MOST * len(rear)
        for number in (signal.SIGKILL, signal.SIGSTOP):
            vehicle.strike_detector(number)

    drive(scenario, standby="always")


def test_frames_that_wait_are_inferred_together_and_fail_with_a_call_that_kills(drive, order):
    def scenario(vehicle):
        vehicle.film(40)
        vehicle.settle()
        assert together(vehicle) > 0
        victim = vehicle.detector()
        order(fault="segfault")
        vehicle.film(15)
        vehicle.until(lambda: vehicle.detector() != victim)
        vehicle.film(15)
        vehicle.settle()
        every = [report for name in CAMERAS for report in vehicle.reports[name]]
        failed = [report for report in every if report.status == FrameReport.FAILED]
        assert failed
        for report in failed:
            assert f"detector {victim} died" in report.reason
        for name in CAMERAS:
            assert sum(report.camera == name for report in failed) <= 1
            assert vehicle.reports[name][-1].status in PUBLISHED

    drive(scenario, order(), standby="always")


def test_a_camera_that_is_unplugged_leaves_the_other_one_alone(drive):
    def scenario(vehicle):
        vehicle.film(20)
        seen = {name: len(vehicle.healths[name]) for name in CAMERAS}

        def rear_is_missed():
            told = vehicle.healths["rear"][seen["rear"] :]
            return any("no frame from the camera" in health.cause for health in told)

        while not rear_is_missed():
            vehicle.film(1, ("front",))
        assert all(h.mode != Health.UNSAFE for h in vehicle.healths["front"][seen["front"] :])
        vehicle.until(lambda: vehicle.stops[-1] is True)
        stops, healths = len(vehicle.stops), len(vehicle.healths["rear"])
        while False not in vehicle.stops[stops:]:
            vehicle.film(1)
        assert any(h.mode != Health.UNSAFE for h in vehicle.healths["rear"][healths:])
        vehicle.settle()
        front = [r.status for r in vehicle.reports["front"]]
        assert FrameReport.FAILED not in front
        assert sum(status in PUBLISHED for status in front) >= MOST * len(front)

    drive(scenario, standby="never", no_frame_ms=1000.0, unsafe_after_ms=1500.0)


def test_without_standbys_who_is_restarted_works_for_all_cameras(drive):
    def scenario(vehicle):
        vehicle.film(10)
        vehicle.settle()
        ended = vehicle.watchdog()
        os.kill(ended, signal.SIGTERM)
        vehicle.until(lambda: vehicle.watchdog() != ended)
        vehicle.film(10)
        vehicle.settle()
        for name in CAMERAS:
            assert len(vehicle.reports[name]) == vehicle.sent[name], "none is reported twice"
        os.kill(vehicle.watchdog(), signal.SIGKILL)
        for name in CAMERAS:
            vehicle.until(
                lambda name=name: any(
                    "the watchdog is gone" in h.cause for h in vehicle.healths[name]
                )
            )
        while vehicle.stops[-1]:
            vehicle.film(1)
        vehicle.strike_detector(signal.SIGKILL)

    drive(scenario, standby="never")
