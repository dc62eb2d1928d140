"""The whole graph on the kernel's virtual camera: each frame that the driver counts has one report.

Latency in an emulated machine means nothing; accounting does. `make camera-test` boots it.
"""

import os
import signal
from itertools import pairwise

import pytest
from beside import beside
from filming import stamp_ns
from perception_interfaces.msg import FrameReport, Health
from recorder import Recorder
from virtual_camera import DEVICE, DROPPED, control, unplugged
from vision_msgs.msg import Detection2DArray

from perception_nodes.cameras.channel import NOTICE, camera_reader
from perception_nodes.graph.graph import VEHICLE
from perception_nodes.graph.topics import FRAME_REPORTS, HEALTH
from perception_nodes.nodes.base import REPORTS
from perception_nodes.transport.remains import sweep

pytestmark = [
    pytest.mark.skipif("VIVID_MACHINE" not in os.environ, reason="no cameras: make camera-test"),
    pytest.mark.timeout(600),  # starting a node takes a minute in the emulated machine
]
PARAMETERS = {
    "source": f"v4l2:{DEVICE}",
    "frame_size": "640x360",
    "frame_rate": 5.0,
    "backend": "null",
    "standby": "never",
    "republish": False,
    "fifo_priority": 0,
    "deadline_ms": 900.0,
    "no_frame_ms": 5_000.0,
    "hang_after_ms": 30_000.0,
    "outcome_timeout_ms": 30_000.0,
}
LOST = "lost by the camera or its driver"
DETECTIONS = "perception/detections"


@pytest.fixture
def domain(monkeypatch):
    """One that DDS has ports for; the machine is ours alone."""
    monkeypatch.setenv("ROS_DOMAIN_ID", "1")
    yield 1
    sweep(1)


class Watched:
    """What a running graph's camera sends, and what is published of it."""

    def __init__(self, join):
        self._recorder = Recorder()
        for topic, kind in (
            (FRAME_REPORTS, FrameReport),
            (DETECTIONS, Detection2DArray),
            (HEALTH, Health),
        ):
            self._recorder.subscribe(topic, kind, REPORTS)
        self.reports, self.detections, self.healths = self._recorder.got.values()
        self._camera = camera_reader(join("reader"), "front")
        self.frames: dict[int, tuple[int, int]] = {}
        """Sender and number of frames by their stamp, as far as this process was quick enough."""

    def close(self):
        self._recorder.close()

    def until(self, condition):
        def is_so():
            while (sample := self._camera.receive()) is not None:
                if sample.header.encoding != NOTICE:
                    self.frames[sample.header.stamp_ns] = sample.source, sample.header.number
                sample.release()
            return bool(condition())

        self._recorder.until(is_so, lambda: [(r.status, r.reason) for r in self.reports[-20:]])

    def published(self):
        return [r for r in self.reports if r.status in (FrameReport.OK, FrameReport.LATE)]

    def until_published(self, count):
        """Until there are so many detections more."""
        enough = len(self.published()) + count
        self.until(lambda: len(self.published()) >= enough)

    def is_detected(self):
        """Whether detections have come for what is reported as published, and for nothing else.

        From the first ones on: reports wait until somebody listens, and detections do not.
        """
        detected = set(map(stamp_ns, self.detections))
        published = set(map(stamp_ns, self.published()))
        return detected == {stamp for stamp in published if stamp >= min(detected, default=0)}

    def lost(self):
        return sum(report.reason == LOST for report in self.reports)


def misbehave(watched, supervisor):
    """The camera films, drops frames, is killed and unplugged, and films each time again."""
    watched.until_published(20)

    control(DROPPED, 40)
    enough = watched.lost() + 5
    watched.until(lambda: watched.lost() >= enough)
    control(DROPPED, 0)
    watched.until_published(10)

    senders = len({source for source, _ in watched.frames.values()})
    (camera,) = (p for spec, p in supervisor.processes if spec.executable == "camera_node")
    os.kill(camera.pid, signal.SIGKILL)
    watched.until(lambda: len({source for source, _ in watched.frames.values()}) > senders)
    watched.until_published(10)

    with unplugged():
        watched.healths.clear()
        watched.until(lambda: any("no frame" in h.cause for h in watched.healths))
    watched.until_published(10)
    # Detections and reports come on ways of their own.
    watched.until(watched.is_detected)


def test_whatever_the_camera_does_each_frame_has_one_report(join, domain):
    watched = Watched(join)
    beside(VEHICLE.nodes(PARAMETERS), lambda supervisor: misbehave(watched, supervisor))
    watched.close()

    # Those before the first detections may have met no detector yet, and those behind the last ones
    # may be on their way still.
    numbers = [report.sequence for report in watched.published()]
    reports = sorted(
        (r for r in watched.reports if min(numbers) <= r.sequence <= max(numbers)),
        key=lambda report: report.sequence,
    )
    assert [r.sequence for r in reports] == list(range(min(numbers), max(numbers) + 1))
    assert {r.reason for r in reports if r.status == FrameReport.FAILED} == {LOST}
    known = [
        (r.sequence, *watched.frames[s]) for r in reports if (s := stamp_ns(r)) in watched.frames
    ]
    assert len({source for _, source, _ in known}) == 2
    assert len(known) > 50
    for (report, source, number), (next_report, next_source, next_number) in pairwise(known):
        if source == next_source:
            assert next_report - report == next_number - number, "one report a frame"
    assert watched.is_detected()
    for health in watched.healths:
        outs = (health.ok, health.late, health.skipped_late, health.superseded, health.degraded)
        assert health.frames_in == sum(outs) + health.failed + health.in_flight
