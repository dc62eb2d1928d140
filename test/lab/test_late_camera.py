"""What the bench's camera renders too late is stamped when it is there, and that is noted."""

import time
from types import SimpleNamespace

import pytest

from perception_nodes.faults.camera_faults import SentFrame
from perception_nodes.faults.nodes.fault_camera_node import FaultCameraNode

pytestmark = pytest.mark.ros
LATE_NS = 80_000_000
SHIFT_NS = -1_000_000_000


class Camera(FaultCameraNode):
    """Sends to nobody; its first frame is due at the time given."""

    def __init__(self, first_due_ns: int) -> None:
        self._first_due_ns, self._first_ns = first_due_ns, 0
        self.settings = SimpleNamespace(rate=1.0)
        self._clocks = None
        self._sent, self._late = [], []
        self._camera = SimpleNamespace(prepare=lambda frame, stamp_ns, number: lambda: None)


def test_a_frame_that_is_late_is_stamped_when_it_is_there() -> None:
    now_ns = time.time_ns()
    camera = Camera(now_ns - LATE_NS)
    camera._play(SentFrame(7, 0, b"", None))
    ((index, stamp_ns),) = camera._sent
    assert index == 7
    assert now_ns <= stamp_ns <= time.time_ns()
    assert camera._late == [(stamp_ns, stamp_ns - now_ns + LATE_NS)]


def test_a_stamp_that_is_wrong_on_purpose_stays_as_it_is() -> None:
    due_ns = time.time_ns() - LATE_NS
    camera = Camera(due_ns)
    camera._play(SentFrame(0, 0, b"", None, stamp_shift_ns=SHIFT_NS))
    assert camera._sent == [(0, due_ns + SHIFT_NS)]
    assert camera._late == []


def test_a_burst_on_purpose_is_not_late() -> None:
    due_ns = time.time_ns() + LATE_NS
    camera = Camera(due_ns)
    camera._play(SentFrame(0, 0, b"", None, stamp_shift_ns=SHIFT_NS))
    camera._play(SentFrame(1, 0, b"", None))
    assert camera._sent == [(0, due_ns + SHIFT_NS), (1, due_ns)]
    assert camera._late == []


def test_a_frame_in_time_is_stamped_when_it_is_due() -> None:
    due_ns = time.time_ns() + LATE_NS
    camera = Camera(due_ns)
    camera._play(SentFrame(0, 0, b"", None))
    assert camera._sent == [(0, due_ns)]
    assert camera._late == []
    assert time.time_ns() >= due_ns
