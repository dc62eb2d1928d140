"""`perception replay`: recorded drives through the pipeline, without ROS."""

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.cli.common import (
    BackendOption,
    DeadlineOption,
    JsonFlag,
    ModelOption,
    ThreadsOption,
    check_folder,
    check_writable,
    progress_bars,
    say,
    say_problem,
    screen,
)
from perception_nodes.cli.replay_screen import corpus_bar, show, show_all
from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.errors import InputError
from perception_nodes.drives.bag import open_drive
from perception_nodes.evaluation import read_set
from perception_nodes.evaluation.matching import require_pycocotools
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import load_model
from perception_nodes.replay.corpus import (
    Job,
    Result,
    Workers,
    alone_in,
    jobs_of,
    merged,
    read_corpus,
    replay_corpus,
)
from perception_nodes.replay.golden import Golden, golden_text, read_golden
from perception_nodes.replay.offline_camera import LoadedModel, ReplaySettings
from perception_nodes.replay.outputs import JPEG, PICTURE_FORMATS, RECORDING_FILE
from perception_nodes.replay.run import (
    LOCKSTEP,
    MODES,
    REALTIME,
    Options,
    Source,
    made_with,
    replay,
    sources,
)
from perception_nodes.report.changes import Tolerance, frames_of
from perception_nodes.report.recording import read_recording
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.files import write_whole

MAX_FRAMES = 1_000_000_000


def replay_command(
    bags: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="BAG...",
            help="Recorded drives: ROS 2 bag folders, .mcap, .db3, ROS 1 .bag, video files, "
            "folders of images. If there are several, each gets its own folder in --out.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the outputs.")] = Path(
        "out/replay"
    ),
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="File that names more drives, one path on each line. A drive that cannot be used "
            "does not stop the others, and a second run replays only what the first did not."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=4096, help="Drives replayed at a time, each in a process.")
    ] = 1,
    ray: Annotated[
        str,
        typer.Option(
            help="Replay on a Ray cluster: its address, auto for the one this machine belongs to, "
            "or local to start one here. --workers is the number of tasks at a time."
        ),
    ] = "",
    mode: Annotated[
        str,
        typer.Option(
            help="lockstep: every frame in order, in simulated time; two runs write the same "
            "bytes. realtime: with the recorded timing, and drops and misses as on the vehicle."
        ),
    ] = LOCKSTEP,
    rate: Annotated[
        float,
        typer.Option(min=0.01, max=100, help="Speed in realtime; 2 is twice as fast as recorded."),
    ] = 1.0,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="Image topic, by default found by type; may be repeated; all for every."),
    ] = None,
    every: Annotated[
        int, typer.Option(min=1, max=MAX_FRAMES, help="Replay only one frame in this many.")
    ] = 1,
    frames: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_FRAMES, help="Stop each drive after this many frames."),
    ] = None,
    model: ModelOption = "road-n",
    backend: BackendOption = AUTO,
    threads: ThreadsOption = 0,
    score_threshold: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Lowest score of an object to report.")
    ] = DecodeSettings.score_threshold,
    deadline_ms: DeadlineOption = DEADLINE_MS,
    calibration: Annotated[
        str, typer.Option(help="camera_info YAML to use instead of the bag's CameraInfo.")
    ] = "",
    sample_bits: Annotated[
        int,
        typer.Option(
            min=0,
            max=16,
            help="Significant bits of images with 16 bits a sample; 0: as many as the brightest "
            "pixel so far needs.",
        ),
    ] = 0,
    golden: Annotated[
        Path | None,
        typer.Option(help="Compare with this golden file; exit status 1 if anything changed."),
    ] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Write the golden file from this replay.")
    ] = False,
    box_iou: Annotated[
        float, typer.Option(min=0.3, max=1, help="Lowest IoU of a box that has not moved.")
    ] = Tolerance.box_iou,
    score_tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="How far a score may be from the golden's.")
    ] = Tolerance.score,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Labels of the frames, to measure mAP: a set as for `perception model evaluate "
            "--data`. For a bag, name image files by the frame's stamp in nanoseconds, or let the "
            "name end with the frame's number."
        ),
    ] = None,
    labels_topic: Annotated[
        str, typer.Option(help="Detection2DArray topic of the bag to use as labels.")
    ] = "",
    tracks: Annotated[
        bool, typer.Option("--tracks", help="Follow the objects, and record their tracks.")
    ] = False,
    pictures: Annotated[
        bool, typer.Option(help="Write pictures of the frames into detections.mcap.")
    ] = True,
    picture_format: Annotated[
        str,
        typer.Option(
            help="How detections.mcap keeps them: jpeg, at most 960 pixels wide, each with a copy "
            "that shows the boxes; h264, a video topic in the frames' size that replays again."
        ),
    ] = JPEG,
    video: Annotated[bool, typer.Option("--video", help="Write annotated.mp4 too.")] = False,
    bare: Annotated[
        bool, typer.Option("--bare", help="Measure bare inference too, and compare the speed.")
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B", help="Replay nothing; compare the folders of two runs, in --out."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Replay recorded drives through the pipeline, without ROS.

    Writes detections.mcap (for Foxglove and rviz), report.html, overview.png, timing.csv and
    summary.json. Exit status 1 if something differs from the golden, or if no object was found at
    all and no golden says so.

    Example: perception replay bags/sample --every 5 --out out/replay

    Example: perception replay drives/rain drives/night --workers 2

    Example: perception replay --compare out/before out/after --out out/compared
    """
    if str(out) == ".":
        raise SettingsError("--out names the current folder; name one for the outputs")
    check_folder(out, "--out")
    if compare is not None:
        return _compare(compare, bags, out, as_json)
    if not bags and corpus is None:
        raise SettingsError("name a recorded drive, or two runs with --compare A B")
    if mode not in MODES:
        raise SettingsError(f"--mode {mode!r} is unknown; known are {', '.join(MODES)}")
    if mode == REALTIME and (golden or bare):
        raise SettingsError(
            "--golden and --bare need --mode lockstep: in real time frames may be dropped"
        )
    if workers > 1 and (mode == REALTIME or bare):
        raise SettingsError(
            "--workers goes with neither --mode realtime nor --bare: drives beside each other "
            "would be measured against each other"
        )
    if picture_format not in PICTURE_FORMATS:
        raise SettingsError(
            f"--picture-format {picture_format!r} is unknown; known are "
            f"{', '.join(PICTURE_FORMATS)}"
        )
    if rate != 1 and mode == LOCKSTEP:
        raise SettingsError("--rate needs --mode realtime: lockstep is as fast as it can be")
    if update and golden is None:
        raise SettingsError("--update needs --golden FILE, the file to write")
    if video and not pictures:
        raise SettingsError("--video shows the pictures that --no-pictures leaves out; give one")
    if golden is not None and update:
        check_writable(golden, "--golden")
    if labels is not None or labels_topic:
        require_pycocotools()

    model_read = load_model(model)
    options = Options(
        mode=mode,
        rate=rate,
        every=every,
        frames=frames,
        pictures=pictures,
        picture_format=picture_format,
        video=video,
        bare=bare,
        golden=None if golden is None or update else read_golden(golden),
        tolerance=Tolerance(box_iou, score_tolerance),
        labels=None if labels is None else read_set(labels),
        labels_topic=labels_topic,
        tracks=tracks,
    )
    sharded = corpus is not None or workers > 1 or ray != ""
    settings = ReplaySettings(
        model=model,
        backend=runtime_for(backend, model_read),
        threads=threads or (max(len(os.sched_getaffinity(0)) // workers, 1) if sharded else 0),
        deadline_ms=deadline_ms,
        score_threshold=score_threshold,
        sample_bits=sample_bits,
        calibration_file=calibration,
    )
    named = [*(bags or ()), *(read_corpus(corpus) if corpus is not None else ())]
    found = sources(named, topic or [], keep_unreadable=len(named) > 1 or sharded)
    one = not sharded and len(found) == 1
    if sharded:
        inputs = [Path(file) for file in (golden, calibration) if file]
        jobs = jobs_of(found, out, model_read, settings, options, inputs)
        summaries, failed = _sharded(jobs, out, workers, ray)
    else:
        summaries, failed = _one_after_the_other(found, out, settings, options)
    broken = [name for name, summary in summaries.items() if _all_failed(summary)]
    if golden is not None and update and not (failed or broken):
        drives = {
            name: frames_of(
                read_recording(_folder(out, name, one) / RECORDING_FILE, by_number=True)
            )
            for name in summaries
        }
        write_whole(golden, golden_text(Golden(made_with(model_read, settings), drives)))
        say(f"golden written: {golden}")
    whole = next(iter(summaries.values())) if one else merged(summaries, failed, out, named)
    if as_json:
        print(json.dumps(whole, indent=2))
    else:
        if one:
            show(found[0].name, whole, out)
        else:
            show_all(whole, out)
    for name in broken:
        say(f"{name}: every frame failed; summary.json has the reasons")
    if failed or broken:
        if update:
            say(f"golden not written: {golden} is made of drives that can all be replayed")
        raise typer.Exit(2)
    # Who names bags may replay a part on purpose; a list stands for all that the golden is made of.
    left_out = [] if options.golden is None else sorted(options.golden.drives.keys() - summaries)
    if corpus is not None and left_out:
        say_problem(
            "failed",
            f"golden {golden} has drives that were not replayed: {', '.join(left_out)}; name them "
            f"in {corpus}, or rewrite the golden with --update",
        )
        raise typer.Exit(1)
    from perception_nodes.report.drive_report import nothing_found

    changed = any(summary.get("golden", {}).get("changes") for summary in summaries.values())
    if changed or all(nothing_found(summary) for summary in summaries.values()):
        raise typer.Exit(1)


def _all_failed(summary: dict[str, Any]) -> bool:
    return bool(summary["frames_in"]) and summary["status"]["FAILED"] == summary["frames_in"]


def _folder(out: Path, name: str, one: bool) -> Path:
    return out if one else out / name


def _one_after_the_other(
    found: Sequence[Source], out: Path, settings: ReplaySettings, options: Options
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Replay in this process; the summaries by drive, and the reasons of drives without.

    Of several drives, one that cannot be used does not end the others. A path that does not exist
    is a slip of the caller and ends the command before any work.
    """
    one = len(found) == 1
    summaries: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for source in found:
        if not source.path.exists():
            open_drive(source.path, source.topic)
    with LoadedModel(settings, str(cache_folder())) as loaded, progress_bars("frames") as progress:
        for source in found:
            folder = _folder(out, source.name, one)
            try:
                summaries[source.name] = replay(source, folder, loaded, options, progress)
            except InputError as error:
                if one:
                    raise
                failed[source.name] = str(error)
    return summaries, failed


def _sharded(
    jobs: Sequence[Job], out: Path, count: int, ray: str
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Replay with several workers; the summaries by drive, and the reasons of drives without."""
    from perception_nodes.replay.workers import local_workers, ray_workers

    results: dict[str, Result] = {}
    with alone_in(out), corpus_bar(len(jobs)) as bar:
        workers: AbstractContextManager[Workers] = (
            ray_workers(ray, count, bar.said) if ray else local_workers(count, bar.said)
        )
        with workers as pool:
            for result in replay_corpus(jobs, pool):
                results[result.name] = result
                bar.ended(result.name, (result.summary or {}).get("frames_in", 0))
    ordered = [results[job.source.name] for job in jobs]
    return (
        {result.name: result.summary for result in ordered if result.summary is not None},
        {result.name: result.error for result in ordered if result.summary is None},
    )


def _compare(runs: tuple[Path, Path], bags: list[Path] | None, out: Path, as_json: bool) -> None:
    from perception_nodes.replay.compare import compare_runs, comparison_table

    if bags:
        raise SettingsError(f"--compare replays nothing; leave out {bags[0]}")
    result = compare_runs(*runs, out)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        screen.print(comparison_table(result))
        say(f"Written to {out}: compare.html, compare.json")
