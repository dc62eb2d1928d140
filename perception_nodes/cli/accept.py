"""`perception accept`: whether this computer is fit for the vehicle."""

from pathlib import Path
from typing import Annotated

import typer

from perception_nodes.cli import options
from perception_nodes.cli.common import give, parse_assignments, progress_bars, say
from perception_nodes.graph.ros_arguments import split_ros_arguments


def accept(
    assignments: options.RunAssignments = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=100_000)] = 10.0,
    out: options.OutFolder = Path("out/accept"),
    as_json: options.Json = False,
) -> None:
    """Say whether this computer is fit: a drive with its camera, then four failovers, a verdict.

    The drive is judged by its start, p99.9 against the deadline, frame numbers, processor time and
    memory of each process, rate and jitter of each topic. Then detector, preprocess, watchdog and
    camera fail once each. Without a camera (source:=, image_topic:=, bag:=) 1920x1080 at 30 Hz are
    played. Nothing else should run.

    Results: verdict.json and report.html, a recording, messages of the nodes; nothing after Ctrl-C.

    Options:
        assignments: Parameters that the vehicle drives with, as for `perception run`; and ROS
            arguments.
        minutes: How long to drive.
        out: Folder for the results.

    Exit status: 0 fit; 1 not fit; 2 it cannot be tried, one line says why; 130 ended by Ctrl-C.

    Example: perception accept source:=v4l2:/dev/video0 cpus:=2-5

    Example: perception accept --minutes 1 deadline_ms:=20
    """
    from perception_nodes.lab.acceptance import Acceptance
    from perception_nodes.lab.checks import checks_table
    from perception_nodes.lab.page import acceptance_sentence

    others, ros = split_ros_arguments(assignments or [])
    acceptance = Acceptance(parse_assignments(others, ("minutes", "out")), ros, minutes, say)
    with progress_bars() as progress:
        verdict = acceptance.run(out, progress)
    give(verdict, checks_table(verdict["checks"]), as_json)
    if not as_json:
        for check in verdict["checks"]:
            for note in check["notes"]:
                say(f"{check['name']}: {note}")
        say(f"{acceptance_sentence(verdict)} Written to {out}; the page is {out / 'report.html'}")
    if not verdict["fit"]:
        raise typer.Exit(1)
