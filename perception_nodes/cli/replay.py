"""`perception replay`: recorded drives through the pipeline, without ROS."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.cli import options
from perception_nodes.cli.common import check_writable, explained, progress_bars, say, screen
from perception_nodes.cli.replay_screen import corpus_progress, show_replayed
from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import MAX_LOOKS
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import load_model
from perception_nodes.replay.boxes import BOX_FILES
from perception_nodes.replay.drives import Drives, ReplayRequest
from perception_nodes.replay.offline_camera import ReplaySettings
from perception_nodes.replay.outputs import TABLE, PictureFormat
from perception_nodes.replay.run import Mode, ReplayOptions
from perception_nodes.report.changes import Tolerance
from perception_nodes.system.object_path import path_of

MAX_FRAMES = 1_000_000_000
PathOrUrl = Annotated[Path, typer.Option(parser=path_of, callback=options.folder)]


def replay_command(
    bags: Annotated[list[Path] | None, typer.Argument(metavar="BAG...", parser=path_of)] = None,
    out: PathOrUrl = Path("out/replay"),
    corpus: Annotated[Path | None, typer.Option(parser=path_of)] = None,
    workers: Annotated[int, typer.Option(min=1, max=4096)] = 1,
    ray: str = "",
    mode: Mode = "lockstep",
    rate: Annotated[float, typer.Option(min=0.01, max=100)] = 1.0,
    topic: list[str] | None = None,
    every: Annotated[int, typer.Option(min=1, max=MAX_FRAMES)] = 1,
    frames: Annotated[int | None, typer.Option(min=1, max=MAX_FRAMES)] = None,
    model: options.Model = "open-n",
    backend: options.Backend = AUTO,
    threads: options.Threads = 0,
    score_threshold: options.ScoreThreshold = DecodeSettings.score_threshold,
    deadline_ms: options.Deadline = DEADLINE_MS,
    calibration: str = "",
    second_look: Annotated[int, typer.Option(min=0, max=MAX_LOOKS)] = 0,
    sample_bits: Annotated[int, typer.Option(min=0, max=16)] = 0,
    golden: Path | None = None,
    update: bool = False,
    box_iou: Annotated[float, typer.Option(min=0.3, max=1)] = Tolerance.box_iou,
    score_tolerance: Annotated[float, typer.Option(min=0, max=1)] = Tolerance.score,
    labels: Path | None = None,
    labels_topic: str = "",
    tracks: bool = False,
    pictures: bool = True,
    picture_format: PictureFormat = "jpeg",
    video: bool = False,
    boxes: str = "",
    bare: bool = False,
    compare: Annotated[tuple[Path, Path] | None, typer.Option(metavar="A B")] = None,
    as_json: options.Json = False,
) -> None:
    """Replay recorded drives through the pipeline, without ROS.

    Writes detections.mcap (for Foxglove and rviz), report.html, overview.png, timing.csv and
    summary.json. Exit status 1 if something differs from the golden, if a frame is unaccounted
    for, or if no object was found at all and no golden says so.

    Options:
        bags: Recorded drives: ROS 2 bag folders, .mcap, .db3, ROS 1 .bag, video files, folders of
            images, an image, or a pattern of images ('frames/*.jpg'); URLs too, of bags and video
            files (s3://, gs://, az://, https://). If there are several, each gets its own folder
            in --out.
        out: Folder for the outputs, or a URL of one in a store.
        corpus: File that names more drives, a path or URL on each line. A drive that cannot be used
            does not stop the others, and a second run replays only what the first did not.
        workers: Drives replayed at a time, each in a process; processes share the frames of a
            single one.
        ray: Replay on a Ray cluster: its address, auto for the one this machine belongs to, or
            local to start one here. --workers is the number of tasks at a time.
        mode: lockstep: every frame in order, in simulated time; two runs write the same bytes.
            realtime: with the recorded timing, and drops and misses as on the vehicle.
        rate: Speed in realtime; 2 is twice as fast as recorded.
        topic: Image topic, by default found by type; may be repeated; all for every.
        every: Replay only one frame in this many.
        frames: Stop each drive after this many frames.
        calibration: camera_info YAML to use instead of the bag's CameraInfo.
        second_look: Look so often again at each frame, in lockstep; JPEG is then decoded in full.
        sample_bits: Significant bits of images with 16 bits a sample; 0: as many as the brightest
            pixel so far needs.
        golden: Compare with this golden file; exit status 1 if anything changed.
        update: Write the golden file from this replay.
        box_iou: Lowest IoU of a box that has not moved.
        score_tolerance: How far a score may be from the golden's.
        labels: Labels of the frames, to measure mAP: a set as for `perception model evaluate
            --data`. For a bag, name image files by the frame's stamp in nanoseconds, or let the
            name end with the frame's number.
        labels_topic: Detection2DArray topic of the bag to use as labels.
        tracks: Follow the objects, and record their tracks.
        pictures: Write pictures of the frames into detections.mcap.
        picture_format: How detections.mcap keeps them: jpeg, at most 960 pixels wide, each with a
            copy that shows the boxes; h264, a video topic in the frames' size that replays again.
        video: Write annotated.mp4 too.
        boxes: Write the boxes too: jsonl, an object a frame (boxes.jsonl); csv, a row a box
            (boxes.csv); coco (coco.json). Several with commas.
        bare: Measure bare inference too, and compare the speed.
        compare: Replay nothing; compare the folders of two runs, in --out. Of two runs of several
            drives, each measure's difference has an interval; exit status 1 if one is worse.

    Example: perception replay bags/road.mp4 --every 5 --out out/replay

    Example: perception replay drives/rain drives/night --workers 2

    Example: perception replay --compare out/before out/after --out out/compared
    """
    if str(out) == ".":
        raise SettingsError("--out names the current folder; name one for the outputs")
    if compare is not None:
        return _compare(compare, bags, out, as_json)
    replay_options = ReplayOptions(
        mode=mode,
        rate=rate,
        every=every,
        frames=frames,
        pictures=pictures,
        picture_format=picture_format,
        video=video,
        bare=bare,
        tolerance=Tolerance(box_iou, score_tolerance),
        labels_topic=labels_topic,
        tracks=tracks,
        boxes=box_formats(boxes),
    )
    request = ReplayRequest(
        bags or (), out, corpus, topic or (), workers, ray, golden, update, labels
    )
    request.check(replay_options, second_look)
    check_writable(golden if update else None, "--golden")
    model_read = load_model(model)
    settings = ReplaySettings(
        model=model,
        backend=runtime_for(backend, model_read),
        threads=threads,
        deadline_ms=deadline_ms,
        score_threshold=score_threshold,
        sample_bits=sample_bits,
        second_look=second_look,
        calibration_file=calibration,
    )
    drives = Drives(request, model_read, settings, replay_options)
    with explained(out, "--out", "folder"):
        if request.is_sharded:
            with progress_bars() as show:
                replayed = drives.replay_by_workers(corpus_progress(show, len(drives.sources)))
        else:
            with progress_bars("frames") as show:
                replayed = drives.replay(show)
    if as_json:
        print(json.dumps(replayed.whole, indent=2))
    show_replayed(replayed, request, as_json)
    if replayed.status:
        raise typer.Exit(replayed.status)


def box_formats(text: str) -> tuple[str, ...]:
    """The formats that --boxes names."""
    formats = tuple(dict.fromkeys(filter(None, text.split(","))))
    if unknown := [one for one in formats if one not in BOX_FILES]:
        known = ", ".join(BOX_FILES)
        raise SettingsError(f"--boxes {unknown[0]!r} is unknown; known are {known}")
    return formats


def _compare(runs: tuple[Path, Path], bags: list[Path] | None, out: Path, as_json: bool) -> None:
    from perception_nodes.replay import fleets
    from perception_nodes.replay.compare import compare_runs, comparison_table

    if bags:
        raise SettingsError(f"--compare replays nothing; leave out {bags[0]}")
    several = all((run / TABLE).exists() for run in runs)
    result = fleets.compare_fleets(*runs, out) if several else compare_runs(*runs, out)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        screen.print(escape("\n".join(result["said"])) if several else comparison_table(result))
        say(f"Written to {out}: compare.json, and the page {out / 'compare.html'}")
    if result.get("worse"):
        raise typer.Exit(1)
