"""`perception bench COMMAND`: how fast the graph, models and several cameras are here."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.cli import options
from perception_nodes.cli.common import give, parse_assignments, progress_bar, say
from perception_nodes.cli.described import Commands
from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.graph.settings import SettingsError
from perception_nodes.lab.bench import BenchSetup
from perception_nodes.networks.model import available_models, load_model
from perception_nodes.system.object_path import path_of
from perception_nodes.system.realtime import MAX_PRIORITY, allowed_priority

_HELP = "Measure how fast the graph, models and several cameras are on this machine."
bench_app = Commands(help=_HELP, no_args_is_help=True)

MAX_FRAMES = 100_000_000
MIN_SIDE, MAX_SIDE = 16, 8192


@bench_app.command("latency")
def bench_latency(
    path: Literal["dds", "shm"] = "shm",
    size: options.FrameSize = "1920x1080",
    rate: options.FrameRate = 30.0,
    frames: Annotated[int, typer.Option(min=40, max=MAX_FRAMES)] = 1200,
    rounds: Annotated[int, typer.Option(min=1, max=1000)] = 4,
    model: options.Model = "open-n",
    backend: options.Backend = AUTO,
    threads: options.Threads = 0,
    deadline_ms: options.Deadline = DEADLINE_MS,
    baseline: bool = False,
    baseline_weights: str = "yolov8n.yaml",
    as_json: options.Json = False,
    out: options.OutFile = None,
) -> None:
    """Measure the latency from capture to detections.

    Camera, graph and receiver are separate processes. Rounds of the pipeline, of bare inference
    (the same backend call, paced by the same camera) and of the baseline alternate, so that a busy
    machine slows all of them down alike.

    Options:
        path: How frames reach the graph: dds or shm (shared memory).
        frames: Frames to measure, in all rounds together.
        rounds: Rounds; what is compared alternates in each.
        baseline: Also measure a usual node: typed rclpy subscription, cv2, ultralytics in FP32.
        baseline_weights: Weights for the baseline; by default random ones, which are as fast.

    Example: perception bench latency --path shm --frames 80 --rounds 1 --out out/latency.json
    """
    from perception_nodes.lab.latency import LatencyBench, result_table

    setup = _setup(frames, size, rate, model, backend, threads, deadline_ms)
    weights = baseline_weights if baseline else None
    result = LatencyBench(setup, path, rounds, weights).run(say)
    give(result, result_table(result), as_json, out)


@bench_app.command("deadline")
def bench_deadline(
    frames: Annotated[int, typer.Option(min=40, max=MAX_FRAMES)] = 6636,
    conditions: str = "quiet,one_core,all_cores,memory,disk,build,second_graph",
    real_time: Literal["both", "with", "without"] = "both",
    fifo: Annotated[int, typer.Option(min=-1, max=MAX_PRIORITY)] = -1,
    stay_awake: Literal["auto", "always", "never"] = "auto",
    soak: Annotated[float, typer.Option(min=0, max=100_000)] = 0.0,
    second_look: str = "off",
    size: options.FrameSize = "1920x1080",
    rate: options.FrameRate = 30.0,
    model: options.Model = "open-n",
    backend: options.Backend = AUTO,
    threads: options.Threads = 0,
    deadline_ms: options.Deadline = DEADLINE_MS,
    as_json: options.Json = False,
    out: options.OutFile = None,
    html_file: options.HtmlFile = None,
) -> None:
    """Measure how often the deadline is missed under load, and whether each miss is reported.

    With the defaults it takes an hour. Frames arrive through shared memory. Before and after each
    condition bare inference and a copy in memory are timed, since hosts have good and bad minutes.
    Exit status 1 if a frame missed its deadline and no report says so, or if a process of the graph
    grew or died during the long run.

    Options:
        frames: Frames to measure in each condition.
        conditions: What else runs: quiet, nothing; one_core, all_cores: processors are busy;
            memory: copies larger than the cache on each; disk: 64 MB written and synced again and
            again; build: compilers at nice 19; second_graph: another camera's; slow_1.5, slow_2,
            slow_3: everything takes so many times as long. Several with commas.
        real_time: Measure each condition with or without real-time priority, or both in turn.
        fifo: fifo_priority of the graph where it has real time; -1: what the system allows.
        stay_awake: stay_awake of the graph where it has real time.
        soak: Minutes of an additional long run, in which memory and files must not grow.
        second_look: second_look of the graph: off, auto, 1, 2, 3. Several with commas are measured
            in turns.

    Example: perception bench deadline --frames 300 --conditions quiet,one_core --html out/tail.html
    """
    from perception_nodes.lab.deadline import DeadlineBench, result_table
    from perception_nodes.lab.page import deadline_page

    names = [name for name in conditions.split(",") if name]
    if not names and not soak:
        raise SettingsError(f"--conditions {conditions!r} names none; name one, such as quiet")
    setup = _setup(frames, size, rate, model, backend, threads, deadline_ms)
    if real_time == "both" and not allowed_priority():
        say("real time is not allowed here, it is measured without (perception doctor says more)")
        real_time = "without"
    bench = DeadlineBench(
        setup,
        names,
        soak,
        real_time=[mode == "with" for mode in ("without", "with") if real_time in ("both", mode)],
        fifo_priority=fifo,
        stay_awake=stay_awake,
        second_look=second_look.split(","),
    )
    with progress_bar("measuring, seconds") as progress:
        result = bench.run(progress)
    give(result, result_table(result), as_json, out, (html_file, deadline_page))
    if not result["passed"]:
        raise typer.Exit(1)


@bench_app.command("cameras")
def bench_cameras(
    cameras: str = "1,2",
    frames: Annotated[int, typer.Option(min=20, max=MAX_FRAMES)] = 600,
    size: options.FrameSize = "1920x1080",
    rate: options.FrameRate = 30.0,
    model: options.Model = "open-n",
    backend: options.Backend = AUTO,
    threads: options.Threads = 0,
    deadline_ms: options.Deadline = DEADLINE_MS,
    as_json: options.Json = False,
    out: options.OutFile = None,
) -> None:
    """Measure several cameras in step: one shared detector against one detector for each camera.

    What a call for several frames costs, the detector says as it starts.

    Options:
        cameras: Numbers of cameras to measure, with commas.
        frames: Frames of each camera in each run.

    Example: perception bench cameras --cameras 1,2 --frames 100 --out out/cameras.json
    """
    from perception_nodes.lab.cameras import CamerasBench, result_table

    if not re.fullmatch(r"[1-9](,[1-9])*", cameras):
        raise SettingsError(f"--cameras {cameras!r} is not of the form 1,2")
    setup = _setup(frames, size, rate, model, backend, threads, deadline_ms)
    result = CamerasBench(setup, [int(number) for number in cameras.split(",")]).run(say)
    give(result, result_table(result), as_json, out)


@bench_app.command("streaming")
def bench_streaming(
    bag: Annotated[Path, typer.Argument(metavar="BAG")],
    truth: Path,
    variant: Annotated[list[str] | None, typer.Option(metavar="NAME:=VALUE...")] = None,
    topic: str = "",
    root: options.DataRoot = None,
    as_json: options.Json = False,
    out: options.OutFile = None,
    html_file: options.HtmlFile = None,
) -> None:
    """Score what a planner holds at each instant of a drive: streaming accuracy.

    The whole graph detects in the drive at its own pace, once for each variant, through shared
    memory. At the instant of each frame the newest detections that are published by then are
    compared with the truth of that frame, so that what is late, skipped or lost counts (Li et al.,
    Towards Streaming Perception, ECCV 2020). Exit status 1 if a frame was lost and no report says
    so.

    Options:
        bag: Recorded drive, as for `perception demo`.
        truth: Labelled frames of the drive, as for `perception model evaluate --data`. Their files
            are named by the frame's stamp, or end with its number, from 0.
        variant: Parameters of a graph, in quotes if there are several; may be repeated. By default
            open-n, open-n with second looks, and the model that this machine has the time for.
        topic: Image topic; found by type if not given.

    Example: perception bench streaming DRIVE --truth LABELS --variant "model:=open-n
    second_look:=2" --variant model:=auto --html out/streaming.html
    """
    from perception_nodes.cli.graph import measured
    from perception_nodes.graph.ros_packages import require_ros
    from perception_nodes.lab.streaming import USUAL, result_page, result_table, run_bench

    require_ros()
    (labelled,) = read_sets([truth], root)
    variants = [(text, parse_assignments(text.split())) for text in variant or USUAL]
    with progress_bar("playing, seconds") as progress:
        result = run_bench(bag, topic, labelled, variants, measured, say, progress)
    give(result, result_table(result), as_json, out, (html_file, result_page))
    if any(one["silent_misses"] for one in result["variants"]):
        raise typer.Exit(1)


@bench_app.command("fleet")
def bench_fleet(
    bag: Annotated[Path, typer.Argument(metavar="BAG", parser=path_of)],
    workers: Annotated[int, typer.Option(min=1, max=4096)] = len(os.sched_getaffinity(0)),
    frames: Annotated[int, typer.Option(min=10, max=MAX_FRAMES)] = 250,
    rounds: Annotated[int, typer.Option(min=1, max=1000)] = 3,
    model: options.Model = "open-n",
    backend: options.Backend = AUTO,
    pictures: bool = True,
    as_json: options.Json = False,
    out: options.OutFile = None,
) -> None:
    """Compare `perception replay --workers` with the bare network on all processors.

    The bare network, a replay by one worker and one by all take turns. Tells how much longer a
    replay takes than the network alone, how much all workers do of what one does, and how many
    core hours 1,000 km of one camera are, at 30 frames a second and 60 km/h.

    Options:
        bag: Recorded drive; each worker replays it. Workers begin when their models are loaded:
            minutes of a drive tell more than seconds.
        workers: Workers, and processes of the bare network; each has one thread for inference.
        frames: Frames of the drive.
        rounds: Rounds; what is compared alternates in each.
        pictures: Write pictures of the frames, as `perception replay` does.

    Example: perception bench fleet bags/sample --frames 60 --rounds 1 --no-pictures
    """
    from perception_nodes.lab.fleet import result_table, run_bench
    from perception_nodes.replay.offline_camera import ReplaySettings
    from perception_nodes.replay.run import ReplayOptions

    settings = ReplaySettings(model, runtime_for(backend, load_model(model)))
    chosen = ReplayOptions(frames=frames, pictures=pictures)
    result = run_bench(bag, settings, chosen, workers, rounds, say)
    give(result, result_table(result), as_json, out)


@bench_app.command("models")
def bench_models(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL...")] = None,
    as_json: options.Json = False,
    out: options.OutFile = None,
    html_file: options.HtmlFile = None,
    svg_file: Annotated[Path | None, typer.Option("--svg", callback=options.writable)] = None,
    data: list[Path] | None = None,
    root: options.DataRoot = None,
    frames: Annotated[int, typer.Option(min=10, max=MAX_FRAMES)] = 150,
    threads: str = "1,2",
    backends: str = "auto",
) -> None:
    """Compare the latency and accuracy of models, with their parents and with the roofline.

    All models are loaded into one process and take turns, so that a busy machine slows all of them
    down alike. Each is timed in a tight loop, and at the pace of a camera with cold caches. Nothing
    is timed before all runtimes give the same outputs; if they do not, the exit status is 1. On a
    processor with AMX a process uses it for all networks of OpenVINO or for none: the first model
    decides, as in a detector, and a line names the others, which a detector would run otherwise.

    Options:
        models: Names or folders; by default all in models/.
        svg_file: Write the plot here; it has no background, and greys for light and dark pages.
        data: Measure accuracy on this labelled set, as for `perception model evaluate`; may be
            repeated. Without it, the accuracy that each model.yaml states is used.
        frames: Timed calls for each model, number of threads and pace.
        threads: Numbers of threads, with commas; the headline shows the first.
        backends: Runtimes, with commas; the headline shows the first. auto: the CPU's that suits a
            model, as in the graph.

    Example: perception bench models open-n open-n-float --frames 50 --html out/models.html

    Example: perception bench models open-n --backends openvino,onnxruntime,litert
    """
    from perception_nodes.evaluation.models import ModelsBench, result_table
    from perception_nodes.evaluation.models_report import pareto_picture, render

    if not re.fullmatch(r"[1-9]\d?(,[1-9]\d?)*", threads):
        raise SettingsError(f"--threads {threads!r} is not of the form 1,2")
    bench = ModelsBench(
        [load_model(name) for name in models or available_models()],
        frames,
        list(dict.fromkeys(map(int, threads.split(",")))),
        read_sets(data or [], root),
        list(dict.fromkeys(backends.split(","))),
    )
    result = bench.run(say)
    pages = (html_file, render), (svg_file, pareto_picture)
    give(result, result_table(result), as_json, out, *pages)


def _setup(
    frames: int, size: str, hz: float, model: str, backend: str, threads: int, deadline_ms: float
) -> BenchSetup:
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if not sides or not all(MIN_SIDE <= int(side) <= MAX_SIDE for side in sides.groups()):
        wanted = f"such as 1920x1080, with sides of {MIN_SIDE} to {MAX_SIDE} pixels"
        raise SettingsError(f"--size {size!r} is not WIDTHxHEIGHT, {wanted}")
    backend = runtime_for(backend, load_model(model))
    return BenchSetup(frames, size, hz, model, backend, threads, deadline_ms)
