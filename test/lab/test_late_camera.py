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


@pytest.mark.parametrize(
    ("due_in_ns", "shifts_ns", "noted"),
    [
        (-LATE_NS, [0], True),
        (-LATE_NS, [SHIFT_NS], False),  # a stamp that is wrong on purpose
        (LATE_NS, [SHIFT_NS, 0], False),  # a burst on purpose
        (LATE_NS, [0], False),
    ],
)
def test_a_frame_that_is_late_is_stamped_when_it_is_there(due_in_ns, shifts_ns, noted) -> None:
    now_ns = time.time_ns()
    due_ns = now_ns + due_in_ns
    camera = Camera(due_ns)
    for number, shift_ns in enumerate(shifts_ns):
        camera._play(SentFrame(number, 0, b"", None, stamp_shift_ns=shift_ns))
    assert due_ns <= time.time_ns()
    stamps = [stamp_ns for _, stamp_ns in camera._sent]
    if noted:
        assert now_ns <= stamps[0] <= time.time_ns()
        assert camera._late == [(stamps[0], stamps[0] - due_ns)]
    else:
        assert (stamps, camera._late) == ([due_ns + shift_ns for shift_ns in shifts_ns], [])
