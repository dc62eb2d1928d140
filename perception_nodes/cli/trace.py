"""`perception trace`: where the time of each frame goes, for ui.perfetto.dev."""

from pathlib import Path
from typing import Annotated, Any

import typer

from perception_nodes.cli import options
from perception_nodes.cli.common import say
from perception_nodes.core.frame import RecordKind
from perception_nodes.graph.settings import SettingsError
from perception_nodes.system.files import write_whole
from perception_nodes.transport.journal import journals, read_journal

ROLES = ("preprocess", "detector")


def trace_command(
    recording: Annotated[Path | None, typer.Argument()] = None,
    camera: str = "front",
    out: Annotated[Path, typer.Option(callback=options.writable)] = Path("trace.json"),
) -> None:
    """Write a trace of a run's frames, which ui.perfetto.dev opens.

    One track for each process and camera, a slice for each stage, arrows from capture to
    publication and tracks, counters for frames in flight and for the budget that was left.

    Options:
        recording: An mcap recording with frame reports, such as detections.mcap of `perception
            demo`; by default the running graph is asked for its last half minute.
        camera: Camera of the running graph.
        out: File to write.

    Example: perception trace out/demo/detections.mcap --out out/demo/trace.json
    """
    from perception_nodes.report.frame_trace import Tracked, read_traced, trace_of

    if recording is None:
        frames, tracked = _of_running_graph(camera), Tracked()
    else:
        frames, tracked = read_traced(recording)
    write_whole(out, trace_of(frames, tracked))
    say(f"{len(frames)} frames written to {out}; open it in https://ui.perfetto.dev")


def _of_running_graph(camera: str) -> list[Any]:
    """The outcomes in the journals of the graph's processes, of about the last half minute."""
    records = [
        record
        for role in ROLES
        for path in journals(camera, role).values()
        for record in read_journal(path)
        if record.kind == RecordKind.OUTCOME and record.capture_ns
    ]
    if not records:
        why = f"no graph of the camera {camera!r} runs in this ROS domain, or it has no frames yet"
        raise SettingsError(f"{why}; start one, or name a recording")
    for record in records:
        record.camera = camera.encode()
    return records
