"""The live view, on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.health import HealthMode, Phase
from perception_nodes.report.screen import LiveView


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_objects_of_the_last_frame_are_counted_by_class(is_terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=100)
    with LiveView(console=console) as view:
        view.detections(["person"])
        view.detections(["car", "person", "car"])
        view.health(HealthMode.NOMINAL, "detections arrive in time")
        console.print(view.screen())
    assert "2 car, 1 person" in out.getvalue()
    assert "NOMINAL" in out.getvalue()


@pytest.mark.parametrize(
    ("phase", "frames_done", "word"),
    [
        (Phase.STARTING, 0, "STARTING"),
        (Phase.RUNNING, 1, "UNSAFE"),
        (Phase.RUNNING, 2, "ENDED"),
        (Phase.STOPPING, 1, "STOPPING"),
    ],
)
def test_only_a_graph_that_runs_can_be_unsafe_on_the_screen(phase, frames_done, word):
    out = io.StringIO()
    with LiveView(total_frames=2, console=Console(file=out, width=200)) as view:
        view._statuses[FrameStatus.OK] = frames_done
        view.health(HealthMode.UNSAFE, "no frame from the camera", phase)
        view._draw()
    shown, last = out.getvalue().splitlines()
    assert [name for name in ("UNSAFE", *Phase.__members__, "ENDED") if name in shown] == [word]
    assert "ENDED" in last
