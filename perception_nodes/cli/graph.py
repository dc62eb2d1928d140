"""`perception run`, `demo` and `view`: the graph on a live camera or a drive, and its page."""

import errno
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from perception_nodes.cli import common, options
from perception_nodes.core.errors import PerceptionError
from perception_nodes.drives.bag import open_drive
from perception_nodes.drives.sample import sample_drive
from perception_nodes.evaluation.measured import measured_settings
from perception_nodes.graph import graph as graphs
from perception_nodes.graph.config import DetectorSettings, ViewSettings
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.resolve import GraphSettings
from perception_nodes.graph.ros_arguments import NO_ROS_ARGUMENTS, RosArguments, split_ros_arguments
from perception_nodes.graph.ros_packages import require_ros
from perception_nodes.graph.settings import SettingsError, allowed_range, refuse
from perception_nodes.graph.supervisor import Supervisor
from perception_nodes.networks.model import load_model
from perception_nodes.networks.terms import MEANING, Terms
from perception_nodes.system.cache import trim
from perception_nodes.system.life import is_launched
from perception_nodes.system.processes import open_process

VIEW_ALONE = graphs.Graph((graphs.VIEW,))


def demo(
    assignments: options.Assignments = None,
    bag: Path | None = None,
    topic: str = "",
    out: Path = Path("out/demo"),
    view: bool = False,
    as_json: options.Json = False,
    parameters: options.ListParameters = False,
) -> None:
    """Play a recorded drive through the whole ROS 2 graph, with a live view and a report.

    Each node is a process of its own. Writes summary.json, detections.mcap (for Foxglove),
    report.html and annotated.mp4. Exit status 1 if a frame is unaccounted for, or if no object was
    found at all.

    Options:
        bag: Recorded drive: ROS 2 bag folder, .mcap, .db3, ROS 1 .bag, video file or folder of
            images. Without it, a road: bags/road.mp4, or the same in the cache, fetched the first
            time.
        topic: Image topic; found by type if not given.
        out: Folder for the outputs.
        view: Show it on a page in the browser too, as view:=true.

    Example: perception demo --bag bags/road.mp4 --out out/demo deadline_ms:=20
    """
    from perception_nodes.lab.demo import SET_BY_THE_DEMO, run_demo

    if parameters:
        return show_parameters(graphs.RECORDED, SET_BY_THE_DEMO)
    common.check_folder(out, "--out")
    values = common.parse_assignments(assignments, ("bag", "topic", "out"))
    if view:
        values["view"] = "true"
    say_page(VIEW_ALONE.nodes({n: v for n, v in values.items() if n in VIEW_ALONE.parameters}))
    drive = bag or sample_drive()
    # What cannot work is said before anything is measured.
    require_ros()
    trim()
    open_drive(drive, topic).close()
    with common.progress_bar("writing report and video") as writing:
        summary = run_demo(drive, out, topic, values, measured, writing)
    conclude(summary, out, as_json)


def run(
    assignments: options.RunAssignments = None,
    parameters: options.ListParameters = False,
    view: bool = False,
    pid: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Start the graph on a live camera, or on a drive with bag:=PATH, and keep it running.

    source:=dds takes frames from a ROS topic, source:=shm from `perception camera` or a producer of
    your own; and source:=v4l2:/dev/video0, a stream, a video file or a GStreamer pipeline is opened
    by the graph itself.

    It runs until Ctrl-C, or until the drive or video file ends. The launch files start this
    command. ROS arguments may follow --ros-args: remappings, parameter files, the namespace
    (-r __ns:=/vehicle), the log level.

    Options:
        view: Show frames, latency, objects and health in this terminal; view:=true shows them on a
            page in the browser.
        pid: Stop when the process of this number has ended.

    Example: perception run image_topic:=/cam/image_raw deadline_ms:=20

    Example: perception run --view source:=drive.mp4 loop:=true
    """
    if parameters:
        return show_parameters(graphs.Graph((*graphs.VEHICLE.kinds, graphs.PLAYER)))
    others, ros = split_ros_arguments(assignments or [])
    values = common.parse_assignments(others)
    started = graphs.graph_of({**ros.parameters, **values})
    if view:
        started = graphs.Graph((graphs.MONITOR, *started.kinds))
    ours = ros.only(started.parameters) if is_launched() else ros
    for line in graphs.ALL.misnamed(started.settings(values, ours), ros):
        common.say(line)
    require_ros()  # before anything is measured
    trim()
    settings = measured(started, values, ours)
    detector = settings.of(DetectorSettings)
    # Check it here, or several processes would report the same error.
    models = [load_model(detector.model, detector.model_key)]
    if faster := detector.faster_model(models[0].fallback):
        models.append(load_model(faster, detector.model_key))
    for model in models:
        if model.terms > Terms.PERMISSIVE:
            common.say(f"{model.name} {MEANING[model.terms]} ({model.license})")
    specs = started.processes(settings, ros)
    say_page(specs)
    parent = None
    if pid is not None and (parent := open_process(pid)) is None:
        raise SettingsError(f"--pid {pid}: there is no such process")
    # Messages of the nodes would tear the live view on a terminal.
    with NamedTemporaryFile() if view and common.screen.is_terminal else nullcontext() as log:
        with Supervisor(specs, log=log, while_alive=parent) as graph:
            ended = graph.wait()
    common.say("the graph has come to its end" if ended else "the graph was stopped")


def measured(
    graph: graphs.Graph, values: Mapping[str, Any], ros: RosArguments = NO_ROS_ARGUMENTS
) -> GraphSettings:
    """The settings of a graph; if something is measured for them, it is shown."""
    with common.progress_bar("measuring, seconds") as measuring:
        return measured_settings(graph, values, ros, common.say, measuring)


def view(
    assignments: options.RunAssignments = None, parameters: options.ListParameters = False
) -> None:
    """Show a running graph on a page in the browser: cameras, latency, health, missed frames.

    It runs beside a graph of this machine until Ctrl-C, and gives way to it. Names of cameras,
    topics and deadline are those of the graph. The page is on localhost; view_address:=ADDRESS
    serves it to the network, for browsers that have the token.

    Example: perception view

    Example: perception view cameras:=front,rear view_port:=8091
    """
    if parameters:
        return show_parameters(VIEW_ALONE, ("view",))
    others, ros = split_ros_arguments(assignments or [])
    values = common.parse_assignments(others)
    refuse(values, ("view",))
    (page,) = VIEW_ALONE.nodes({**values, "view": "true"}, ros)
    # The page claims no camera: the running graph has claimed it.
    specs = [replace(page, kind=replace(page.kind, restarted=False))]
    say_page(specs)
    with Supervisor(specs) as graph:
        graph.wait()


def say_page(specs: Sequence[NodeSpec]) -> None:
    """Say where the page is, if there is one, before the graph runs.

    Raises:
        PerceptionError: the page cannot be served there. If only the address is missing, a graph
            goes on without the page, since the network interface may come later.
    """
    for spec in specs:
        if isinstance(settings := spec.settings, ViewSettings):
            from perception_nodes.view.server import listening

            try:
                listening(settings.view_address, settings.view_port).close()
                common.say(f"The page will be at {settings.view_url}; its node says when it is")
            except PerceptionError as error:
                is_late = getattr(error.__cause__, "errno", 0) == errno.EADDRNOTAVAIL
                if len(specs) == 1 or not is_late:
                    raise
                common.say(f"{error}; the graph runs without the page")


def show_parameters(graph: graphs.Graph, hidden: Collection[str] = ()) -> None:
    """Print the parameters of a graph, except those that the command sets itself."""
    others = (Column(name, overflow="fold") for name in ("default", "allowed", "meaning"))
    table = Table(Column("parameter", no_wrap=True), *others)
    for name, info in graph.parameters.items():
        if name in hidden:
            continue
        cells = (name, str(info.default), allowed_range(info), info.description or "")
        table.add_row(*map(escape, cells))
    Console().print(table)


def conclude(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    """Print a run's summary; exit status 1 if a frame is unaccounted for, or nothing was found."""
    from perception_nodes.report.drive_report import nothing_found, unaccounted
    from perception_nodes.report.screen import summary_table

    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        common.screen.print(summary_table(summary))
        common.say_written(out)
    if problem := unaccounted(summary):
        common.say_problem("failed", problem)
        raise typer.Exit(1)
    if nothing := nothing_found(summary):
        common.say(nothing)
        raise typer.Exit(1)
