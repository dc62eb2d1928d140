"""`perception bench COMMAND`: how fast the graph, models and several cameras are here."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from perception_nodes.backends.contract import BACKENDS
from perception_nodes.backends.model import available_models, load_model
from perception_nodes.cli.common import DataRoot, progress_bar, screen
from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.evaluation import read_set
from perception_nodes.graph.config import SettingsError
from perception_nodes.system.files import write_whole

bench_app = typer.Typer(help="Measurements.", no_args_is_help=True)


@bench_app.command("latency")
def bench_latency(
    path: Annotated[str, typer.Option(help="How frames come in: dds or shm.")] = "shm",
    size: Annotated[str, typer.Option(help="Camera frame, WIDTHxHEIGHT.")] = "1920x1080",
    rate: Annotated[float, typer.Option(min=1, max=240, help="Frames a second.")] = 30.0,
    frames: Annotated[int, typer.Option(min=40, help="Frames to measure, in all rounds.")] = 1200,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that alternate what is run.")] = 4,
    model: Annotated[str, typer.Option(help="Model: name or folder.")] = "road-n",
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")] = "openvino",
    threads: Annotated[int, typer.Option(min=0, help="Inference threads; 0: one a core.")] = 0,
    deadline_ms: Annotated[float, typer.Option(min=0.1, help="Deadline of a frame.")] = DEADLINE_MS,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline",
            help="Also run what people run today: typed rclpy subscription, cv2, ultralytics FP32.",
        ),
    ] = False,
    baseline_weights: Annotated[
        str, typer.Option(help="Weights for it; random ones, equally fast, by default.")
    ] = "yolov8n.yaml",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write JSON here.")] = None,
) -> None:
    """Measure capture to detections: camera, graph and receiver are processes of their own.

    Rounds of the pipeline, of bare inference (the same backend call, paced by the same camera) and
    of the baseline alternate, so that a noisy machine troubles them alike.
    """
    from perception_nodes.bench.latency import LatencyBench, result_table

    bench = LatencyBench(
        path=path,
        size=size,
        rate_hz=rate,
        frames=frames,
        rounds=rounds,
        model=model,
        backend=backend,
        threads=threads,
        deadline_ms=deadline_ms,
        baseline_weights=baseline_weights if baseline else None,
    )
    result = bench.run(lambda text: screen.print(text, highlight=False))
    if json_file is not None:
        write_whole(json_file, json.dumps(result, indent=2) + "\n")
    Console().print(result_table(result))


@bench_app.command("deadline")
def bench_deadline(
    frames: Annotated[int, typer.Option(min=40, help="Frames of each condition.")] = 6636,
    conditions: Annotated[
        str, typer.Option(help="Of quiet, one_core, both_cores: which processors others keep busy.")
    ] = "quiet,one_core,both_cores",
    soak: Annotated[
        float, typer.Option(min=0, help="Minutes of a long run, in which nothing may grow.")
    ] = 0.0,
    size: Annotated[str, typer.Option(help="Camera frame, WIDTHxHEIGHT.")] = "1920x1080",
    rate: Annotated[float, typer.Option(min=1, max=240, help="Frames a second.")] = 30.0,
    model: Annotated[str, typer.Option(help="Model: name or folder.")] = "road-n",
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")] = "openvino",
    threads: Annotated[int, typer.Option(min=0, help="Inference threads; 0: one a core.")] = 0,
    deadline_ms: Annotated[float, typer.Option(min=0.1, help="Deadline of a frame.")] = DEADLINE_MS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write JSON here.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page here.")] = None,
) -> None:
    """Measure the tail: is the deadline kept under load, and known when it is not?

    Frames come in through shared memory. Exit status 1 where a frame missed its deadline and no
    report says so, or where the graph grew in the long run.
    """
    from perception_nodes.bench.deadline import DeadlineBench, result_table
    from perception_nodes.bench.deadline_report import render

    bench = DeadlineBench(
        frames=frames,
        conditions=[name for name in conditions.split(",") if name],
        soak_minutes=soak,
        size=size,
        rate_hz=rate,
        model=model,
        backend=backend,
        threads=threads,
        deadline_ms=deadline_ms,
    )
    with progress_bar("measuring, seconds") as progress:
        result = bench.run(progress)
    if json_file is not None:
        write_whole(json_file, json.dumps(result, indent=2) + "\n")
    if html_file is not None:
        write_whole(html_file, render(result))
    Console().print(result_table(result))
    if not result["passed"]:
        raise typer.Exit(1)


@bench_app.command("cameras")
def bench_cameras(
    cameras: Annotated[str, typer.Option(help="Numbers of cameras to measure.")] = "1,2",
    frames: Annotated[int, typer.Option(min=20, help="Frames of each camera in each run.")] = 600,
    size: Annotated[str, typer.Option(help="Camera frame, WIDTHxHEIGHT.")] = "1920x1080",
    rate: Annotated[float, typer.Option(min=1, max=240, help="Frames a second.")] = 30.0,
    model: Annotated[str, typer.Option(help="Model: name or folder.")] = "road-n",
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")] = "openvino",
    threads: Annotated[int, typer.Option(min=0, help="Inference threads; 0: one a core.")] = 0,
    deadline_ms: Annotated[float, typer.Option(min=0.1, help="Deadline of a frame.")] = DEADLINE_MS,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write JSON here.")] = None,
) -> None:
    """Measure several cameras that film in step: one detector for all, against one for each.

    Before that, what the backend takes for several frames at once and one after the other.
    """
    from perception_nodes.bench.cameras import CamerasBench, result_table

    if not re.fullmatch(r"[1-9](,[1-9])*", cameras):
        raise SettingsError(f"--cameras {cameras!r} is not of the form 1,2")
    bench = CamerasBench(
        [int(number) for number in cameras.split(",")],
        frames,
        size,
        rate,
        model,
        backend,
        threads,
        deadline_ms,
    )
    result = bench.run(lambda text: screen.print(text, highlight=False))
    if json_file is not None:
        write_whole(json_file, json.dumps(result, indent=2) + "\n")
    Console().print(result_table(result))


@bench_app.command("models")
def bench_models(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Names or folders; all in models/ by default."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write JSON here.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page here.")] = None,
    svg_file: Annotated[
        Path | None, typer.Option("--svg", help="Write the picture here, for light and dark.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Measure accuracy on this set, as for `perception model evaluate`; repeatable. "
            "Without it, what each model.yaml says is taken."
        ),
    ] = None,
    root: DataRoot = None,
    frames: Annotated[
        int, typer.Option(min=10, help="Timed calls of each model, threads and pace.")
    ] = 150,
    threads: Annotated[str, typer.Option(help="Numbers of threads, the headline's first.")] = "1,2",
) -> None:
    """Compare models: latency against accuracy, each against its parent and the roofline.

    All are loaded into one process and take turns, so that a noisy machine troubles them alike:
    in a tight loop, and at a camera's pace with cold caches. Nothing is timed before both runtimes
    give the same outputs; where they do not, the exit status is 1.
    """
    from perception_nodes.bench.models import Disagreement, ModelsBench, result_table
    from perception_nodes.bench.models_report import picture, render

    if not re.fullmatch(r"[1-9]\d?(,[1-9]\d?)*", threads):
        raise SettingsError(f"--threads {threads!r} is not of the form 1,2")
    bench = ModelsBench(
        [load_model(name) for name in models or available_models()],
        frames,
        list(dict.fromkeys(map(int, threads.split(",")))),
        [read_set(path, root) for path in data or []],
    )
    try:
        result = bench.run(lambda text: screen.print(text, highlight=False))
    except Disagreement as error:
        screen.print(f"[red]failed:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    if json_file is not None:
        write_whole(json_file, json.dumps(result, indent=2) + "\n")
    if html_file is not None:
        write_whole(html_file, render(result))
    if svg_file is not None:
        write_whole(svg_file, picture(result))
    Console().print(result_table(result))
