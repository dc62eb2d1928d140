"""The live view, on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from perception_nodes.report.screen import LiveView


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_objects_of_the_last_frame_are_counted_by_class(is_terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=100)
    with LiveView(console=console) as view:
        view.detections(["person"])
        view.detections(["car", "person", "car"])
        view.health("NOMINAL", "detections arrive in time")
        if is_terminal:
            console.print(view.screen())
    assert "2 car, 1 person" in out.getvalue()
    assert "NOMINAL" in out.getvalue()
