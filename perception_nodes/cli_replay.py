"""`perception replay`: recorded drives through the pipeline with no ROS, and what came of them."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from perception_nodes.backends.base import BACKENDS
from perception_nodes.cli_common import JsonFlag, screen
from perception_nodes.config import SettingsError
from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.environment import cache_folder
from perception_nodes.evaluation import read_set
from perception_nodes.evaluation.matching import require_pycocotools
from perception_nodes.files import write_whole
from perception_nodes.replay.golden import Golden, Tolerance, golden_text, read_golden
from perception_nodes.replay.run import (
    LOCKSTEP,
    MODES,
    REALTIME,
    Options,
    Outcome,
    Progress,
    made_with,
    replay,
    sources,
)

SHOWN_CHANGES = 20
PLAIN_INTERVAL_S = 5.0


def replay_command(
    bags: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="BAG...",
            help="Recorded drives: ROS 2 bag folders, .mcap, .db3, ROS 1 .bag, video files, "
            "folders of images. Each of several gets a folder of its own in --out.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the outputs.")] = Path(
        "out/replay"
    ),
    mode: Annotated[
        str,
        typer.Option(
            help="lockstep: every frame, in order, under simulated time; two runs write the same "
            "bytes. realtime: the recorded timing, with drops and misses as on the vehicle."
        ),
    ] = LOCKSTEP,
    rate: Annotated[
        float, typer.Option(min=0.01, max=100, help="In realtime: so much faster than recorded.")
    ] = 1.0,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="Image topic, found by type if not given; repeatable; all for each."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every so manieth frame.")] = 1,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Stop each drive after so many frames.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model: name or folder.")] = "road-n",
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")] = "openvino",
    threads: Annotated[
        int, typer.Option(min=0, max=256, help="Inference threads; 0: one a core.")
    ] = 0,
    score_threshold: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Objects below it are not reported.")
    ] = DecodeSettings.score_threshold,
    deadline_ms: Annotated[
        float, typer.Option(min=0.1, max=10_000, help="Deadline from capture to publish.")
    ] = DEADLINE_MS,
    calibration: Annotated[
        str, typer.Option(help="camera_info YAML, in place of the bag's CameraInfo.")
    ] = "",
    golden: Annotated[
        Path | None,
        typer.Option(help="Compare with this file; exit status 1 if anything changed."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the golden anew, from this replay.")
    ] = False,
    box_iou: Annotated[
        float, typer.Option(min=0.3, max=1, help="IoU from which on a box has not moved.")
    ] = Tolerance.box_iou,
    score_tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="By which a score may differ from the golden's.")
    ] = Tolerance.score,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="What is on the frames, for mAP: as for `perception model evaluate --data`. Of a "
            "bag, image files are named by a frame's stamp in nanoseconds or end with its number."
        ),
    ] = None,
    labels_topic: Annotated[
        str, typer.Option(help="Detection2DArray topic in the bag that has the labels instead.")
    ] = "",
    pictures: Annotated[
        bool, typer.Option(help="Write pictures of the frames into detections.mcap.")
    ] = True,
    video: Annotated[bool, typer.Option("--video", help="Write annotated.mp4 too.")] = False,
    bare: Annotated[
        bool, typer.Option("--bare", help="Measure bare inference too and compare the speed.")
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B", help="No replay: put the folders of two runs side by side, in --out."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Replay recorded drives through the pipeline, with no ROS.

    Writes detections.mcap (for Foxglove and rviz), report.html, overview.png, timing.csv and
    summary.json. Exit status 1 if something differs from the golden.
    """
    if compare is not None:
        return _compare(compare, bags, out, as_json)
    if not bags:
        raise SettingsError("name a recorded drive, or two runs with --compare A B")
    if mode not in MODES:
        raise SettingsError(f"--mode {mode!r} is unknown; known are {', '.join(MODES)}")
    if mode == REALTIME and (golden or bare):
        raise SettingsError(
            "--golden and --bare need --mode lockstep: in real time frames may be dropped"
        )
    if rate != 1 and mode == LOCKSTEP:
        raise SettingsError("--rate needs --mode realtime: lockstep is as fast as it can be")
    if update and golden is None:
        raise SettingsError("--update needs --golden FILE, the file to write")
    if out.is_file():
        raise SettingsError(f"--out {out} is a file; name a folder")
    if labels is not None or labels_topic:
        require_pycocotools()

    from perception_nodes.replay.camera import LoadedModel, ReplaySettings

    options = Options(
        mode=mode,
        rate=rate,
        every=every,
        frames=frames,
        pictures=pictures,
        video=video,
        bare=bare,
        golden=None if golden is None or update else read_golden(golden),
        tolerance=Tolerance(box_iou, score_tolerance),
        labels=None if labels is None else read_set(labels),
        labels_topic=labels_topic,
        keep_objects=update,
    )
    settings = ReplaySettings(
        model=model,
        backend=backend,
        threads=threads,
        deadline_ms=deadline_ms,
        score_threshold=score_threshold,
        calibration_file=calibration,
    )
    found = sources(bags, topic or [])
    outcomes: dict[str, Outcome] = {}
    with LoadedModel(settings, str(cache_folder())) as loaded, _bar() as progress:
        for source in found:
            folder = out / source.name if len(found) > 1 else out
            outcomes[source.name] = replay(source, folder, loaded, options, progress)
        made = made_with(loaded)
    if golden is not None and update:
        drives = {name: outcome.frames for name, outcome in outcomes.items()}
        write_whole(golden, golden_text(Golden(made, drives)))
        screen.print(f"golden written: {golden}", highlight=False, soft_wrap=True)
    summaries = {name: outcome.summary for name, outcome in outcomes.items()}
    if len(found) > 1:
        write_whole(out / "summary.json", json.dumps({"drives": summaries}, indent=2) + "\n")
    if as_json:
        whole: Any = {"drives": summaries} if len(found) > 1 else next(iter(summaries.values()))
        print(json.dumps(whole, indent=2))
    changed = False
    for name, summary in summaries.items():
        if not as_json:
            _show(name, summary, out / name if len(found) > 1 else out)
        changed |= bool(summary.get("golden", {}).get("changes"))
    if changed:
        raise typer.Exit(1)


class _Rate(ProgressColumn):
    """Frames a second."""

    def render(self, task: Task) -> Text:
        """The mean over the last seconds."""
        return Text("" if not task.speed else f"{task.speed:.0f} frames/s")


@contextmanager
def _bar() -> Iterator[Progress]:
    """Shows frames a second and the time that is left, on stderr; a line now and then in a log."""
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
    )
    tasks: dict[str, Any] = {}
    begin_s = said_s = time.monotonic()

    def show(title: str, done: int, total: int) -> None:
        nonlocal begin_s, said_s
        if title not in tasks:
            for task in tasks.values():
                bar.update(task, visible=False)
            tasks[title] = bar.add_task(title, total=total)
            begin_s = said_s = time.monotonic()
            if screen.is_terminal:
                bar.start()
        if screen.is_terminal:
            bar.update(tasks[title], completed=done)
        elif (now_s := time.monotonic()) - said_s > PLAIN_INTERVAL_S:
            said_s = now_s
            rate = done / (now_s - begin_s)
            left_s = (total - done) / rate
            screen.print(
                f"{title}: {done} of {total} frames, {rate:.0f} frames/s, {left_s:.0f} s left",
                highlight=False,
            )

    try:
        yield show
    finally:
        bar.stop()


def _show(name: str, summary: dict[str, Any], folder: Path) -> None:
    """A drive's result in a few lines, on stderr as all that is for people."""
    from perception_nodes.replay.engine import engine_sentence
    from perception_nodes.replay.report import verdict
    from perception_nodes.view import summary_table

    screen.print(summary_table(summary))
    speed, error_ms = summary.get("speed"), summary.get("timing_error_ms")
    if speed:
        bare = ""
        if "share_of_bare" in speed:
            share, bare_rate = speed["share_of_bare"], speed["bare_frames_per_s"]
            bare = f", {share:.0%} of bare inference's {bare_rate:.0f}"
        _say(f"{speed['frames_per_s']:.0f} frames/s{bare}")
    if "engine" in summary:
        _say(engine_sentence(summary["engine"]))
    if error_ms:
        median, p99 = error_ms["p50"], error_ms["p99"]
        _say(f"frames came {median:.3f} ms from their time (median; p99 {p99:.2f})")
    if "accuracy" in summary:
        accuracy = summary["accuracy"]
        _say(
            f"mAP50-95 {accuracy['map50_95']:.4f}, mAP50 {accuracy['map50']:.4f} on "
            f"{accuracy['frames']} labelled frames"
        )
    lines = summary.get("golden", {}).get("lines", [])
    for line in lines[:SHOWN_CHANGES]:
        _say(f"  {line}")
    if len(lines) > SHOWN_CHANGES:
        _say(f"  and {len(lines) - SHOWN_CHANGES} more, in {folder / 'report.html'}")
    _say(f"{name}: {verdict(summary)[1]}")
    _say(f"Written to {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")


def _say(text: str) -> None:
    screen.print(text, highlight=False, soft_wrap=True, markup=False)


def _compare(runs: tuple[Path, Path], bags: list[Path] | None, out: Path, as_json: bool) -> None:
    from perception_nodes.replay.compare import compare_runs, comparison_table

    if bags:
        raise SettingsError(f"--compare replays nothing; leave out {bags[0]}")
    result = compare_runs(*runs, out)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        screen.print(comparison_table(result))
        _say(f"Written to {out}: compare.html, compare.json")
