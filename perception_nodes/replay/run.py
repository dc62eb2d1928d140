"""A replay from bags to outputs, one drive after the other."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from perception_nodes.core.frame import latency_ms
from perception_nodes.drives.bag import BagError, Drive, RawFrame, image_topics, open_drive
from perception_nodes.drives.decompression import COMPRESSED
from perception_nodes.drives.video_storage import VIDEO_SUFFIXES
from perception_nodes.evaluation import LabelledSet
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import Model
from perception_nodes.replay.accuracy import accuracy
from perception_nodes.replay.followed import Followed
from perception_nodes.replay.golden import Golden, GoldenError, made_with_another_model
from perception_nodes.replay.lockstep import Lockstep
from perception_nodes.replay.offline_camera import Camera, LoadedModel, ReplaySettings
from perception_nodes.replay.outputs import (
    JPEG,
    OF_SOME_RUNS,
    OFFLINE,
    RECORDING_FILE,
    VIDEO_FILE,
    PictureWriter,
    merge_pictures,
    summary_of,
    write_summary,
)
from perception_nodes.replay.realtime import Realtime
from perception_nodes.report.accelerator import ENGINE_FILE, engine_csv, engine_summary
from perception_nodes.report.changes import Comparison, Tolerance
from perception_nodes.report.chosen_frames import ChosenFrames
from perception_nodes.report.recording import Recorder
from perception_nodes.system.files import staged, write_whole
from perception_nodes.system.processes import machine

LOCKSTEP, REALTIME = "lockstep", "realtime"
MODES = (LOCKSTEP, REALTIME)
ALL_TOPICS = "all"
BARE_CALLS = 200
SUFFIXES = (".mcap", ".db3", ".bag", *COMPRESSED, *VIDEO_SUFFIXES)
"""File name suffixes that tell the format of a recorded drive."""
AIMED_TIMING_ERROR_MS = 0.5
Progress = Callable[[str, int, int], None]
"""Called with the name of the work, the frames done and their total."""


class Source(NamedTuple):
    """One camera of a bag, under a name that is unique within a command."""

    name: str
    path: Path
    topic: str


@dataclass(frozen=True)
class Options:
    """What to replay of a drive, and what to do with it.

    Attributes:
        mode: one of `MODES`.
        rate: speed in real time; 2 is twice as fast as recorded.
        every: only one frame in this many is replayed.
        frames: number of replayed frames after which to stop; None for all.
        pictures: whether to write pictures into the recording.
        picture_format: one of `PICTURE_FORMATS`.
        video: whether to write `annotated.mp4`.
        bare: whether to measure bare inference too, and compare the speed with it.
        golden: golden to compare with; None for none.
        tolerance: tolerance of that comparison.
        labels: labels of the frames; None for none.
        labels_topic: topic of the bags that holds labels; empty for none.
        tracks: whether to follow the objects.
    """

    mode: str = LOCKSTEP
    rate: float = 1.0
    every: int = 1
    frames: int | None = None
    pictures: bool = True
    picture_format: str = JPEG
    video: bool = False
    bare: bool = False
    golden: Golden | None = None
    tolerance: Tolerance = Tolerance()
    labels: LabelledSet | None = None
    labels_topic: str = ""
    tracks: bool = False


def sources(
    bags: Sequence[Path], topics: Sequence[str], keep_unreadable: bool = False
) -> list[Source]:
    """List the cameras to replay.

    Args:
        bags: recorded drives.
        topics: image topics, `all` for every one of a bag; empty to find one by type.
        keep_unreadable: list a bag whose topics cannot be read as one camera; its replay will then
            fail and say why.

    Raises:
        BagError: the topics of a bag are needed and cannot be read.
    """
    found: dict[str, Source] = {}
    for bag in bags:
        chosen: Sequence[str] = topics or [""]
        if ALL_TOPICS in topics:
            try:
                chosen = image_topics(bag)
            except BagError:
                if not keep_unreadable:
                    raise
                chosen = [""]
        for topic in chosen:
            several = topic.strip("/").replace("/", ".") if len(chosen) > 1 else ""
            plain = name = ".".join(filter(None, (_plain_name(bag), several)))
            same = 1
            while name in found:
                same += 1
                name = f"{plain}~{same}"
            found[name] = Source(name, bag, topic)
    return list(found.values())


def made_with(model: Model, settings: ReplaySettings) -> dict[str, Any]:
    """What a golden records about its making."""
    return {
        "model": model.name,
        "model_sha256": model.sha256,
        "backend": settings.backend,
        "score_threshold": settings.score_threshold,
    }


def replay(
    source: Source, out: Path, loaded: LoadedModel, options: Options, progress: Progress
) -> dict[str, Any]:
    """Replay a drive; the outputs appear in their folder once all of them are complete.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        BagError, UnknownLens, GoldenError, DataError: unusable input.
        SettingsError: the folder cannot be written to.
    """
    with open_drive(source.path, source.topic) as drive, _staged(out) as folder:
        if options.mode == REALTIME:
            return _in_real_time(source, folder, drive, loaded, options, progress)
        return _in_lockstep(source, folder, drive, loaded, options, progress)


def _in_lockstep(
    source: Source,
    folder: Path,
    drive: Drive,
    loaded: LoadedModel,
    options: Options,
    progress: Progress,
) -> dict[str, Any]:
    comparison, notes = _comparison(source, loaded, options)
    camera = Camera(drive, loaded, skip_late=False)
    total = _total(drive, options)
    bare_ns = _bare(loaded, [loaded.new_input()], options)
    run = Lockstep()
    file = folder / RECORDING_FILE
    with Recorder(file) as recorder, ExitStack() as stack:
        followed = Followed(recorder, loaded.model.classes) if options.tracks else None
        pictures = None
        if options.pictures:
            video = folder / VIDEO_FILE if options.video else None
            pictures = stack.enter_context(
                PictureWriter(
                    recorder,
                    drive,
                    video,
                    options.picture_format,
                    loaded.settings.sample_bits,
                )
            )
        run.run(
            camera,
            loaded,
            recorder,
            pictures,
            comparison,
            followed,
            _chosen(drive, options),
            lambda done: progress(source.name, done, total),
        )
    bare_ns += _bare(loaded, run.inputs, options)
    done = len(run.recording.reports)
    deadline_ms = loaded.settings.deadline_ms
    over = sum((latency_ms(r) or 0.0) > deadline_ms for r in run.recording.reports)
    speed: dict[str, float] = {"frames_per_s": round(done / max(run.wall_s, 1e-9), 2)}
    if bare_ns:
        speed["bare_frames_per_s"] = round(1e9 * len(bare_ns) / sum(bare_ns), 2)
        speed["share_of_bare"] = round(speed["frames_per_s"] / speed["bare_frames_per_s"], 3)
    facts = {
        "detections_sha256": _sha256(file),
        "over_deadline": over,
        "speed": speed,
    }
    context = _context(source, drive, loaded, options, [*camera.warnings, *notes]) | facts
    summary = summary_of(run.recording, drive, done, context)
    if followed is not None:
        summary["objects_followed"] = len(followed.objects)
    if comparison is not None:
        comparison.finish()
        summary["golden"] = comparison.as_json()
    chosen = None if pictures is None else pictures.chosen
    return _ended(folder, summary, run, chosen, drive, loaded, options)


def _in_real_time(
    source: Source,
    folder: Path,
    drive: Drive,
    loaded: LoadedModel,
    options: Options,
    progress: Progress,
) -> dict[str, Any]:
    camera = Camera(drive, loaded, skip_late=True)
    total = _total(drive, options)
    run = Realtime()
    messages = folder / "messages.mcap"
    with Recorder(messages) as recorder:
        followed = Followed(recorder, loaded.model.classes) if options.tracks else None
        run.run(
            camera,
            loaded,
            recorder,
            options.rate,
            followed,
            _chosen(drive, options),
            lambda done: progress(source.name, done, total),
        )
    error_ms = run.timing_error_ms()
    notes = [*camera.warnings, *run.log_clock.warnings]
    median_ms = error_ms["p50"]
    if median_ms is not None and median_ms > AIMED_TIMING_ERROR_MS:
        notes.append(
            f"frames were released {median_ms:.2f} ms from their time (median), which is more "
            f"than {AIMED_TIMING_ERROR_MS:g} ms: this machine has too much else to do"
        )
    context = _context(source, drive, loaded, options, notes)
    context |= {"rate": options.rate, "timing_error_ms": error_ms}
    file, chosen = folder / RECORDING_FILE, None
    if options.pictures:
        video = folder / VIDEO_FILE if options.video else None
        chosen = merge_pictures(
            file,
            messages,
            drive,
            run.played,
            video,
            lambda done, _: progress(f"{source.name}: pictures", min(done, total), total),
            options.picture_format,
            loaded.settings.sample_bits,
        )
        messages.unlink()
    else:
        messages.rename(file)
    summary = summary_of(run.recording, drive, len(run.played), context)
    if followed is not None:
        summary["objects_followed"] = len(followed.objects)
    return _ended(folder, summary, run, chosen, drive, loaded, options)


def _ended(
    folder: Path,
    summary: dict[str, Any],
    run: Lockstep | Realtime,
    chosen: ChosenFrames | None,
    drive: Drive,
    loaded: LoadedModel,
    options: Options,
) -> dict[str, Any]:
    if run.engine_calls:
        summary["engine"] = engine_summary(run.engine_calls)
        write_whole(folder / ENGINE_FILE, engine_csv(run.engine_calls))
    if options.labels is not None or options.labels_topic:
        summary["accuracy"] = accuracy(
            loaded.model, drive, run.recording, options.labels, options.labels_topic
        )
    write_summary(folder, summary, run.recording, chosen or ChosenFrames(0))
    return summary


def _comparison(
    source: Source, loaded: LoadedModel, options: Options
) -> tuple[Comparison | None, list[str]]:
    golden = options.golden
    if golden is None:
        return None, []
    note = made_with_another_model(golden, made_with(loaded.model, loaded.settings))
    if source.name not in golden.drives:
        raise GoldenError(
            f"the golden has no drive {source.name!r}, only {', '.join(golden.drives) or 'none'}; "
            "replay what it was made of, or rewrite it with --update"
        )
    threshold = float(golden.made_with["score_threshold"])
    comparison = Comparison(golden.drives[source.name], threshold, options.tolerance)
    return comparison, [note] if note else []


def _context(
    source: Source, drive: Drive, loaded: LoadedModel, options: Options, warnings: list[str]
) -> dict[str, Any]:
    return {
        "bag": str(source.path),
        "topic": drive.topic,
        "path": OFFLINE,
        "mode": options.mode,
        "model": loaded.model.name,
        "model_sha256": loaded.model.sha256,
        "precision": loaded.model.precision,
        "backend": loaded.settings.backend,
        "runtime": loaded.info.runtime,
        "threads": loaded.info.threads,
        "score_threshold": loaded.settings.score_threshold,
        "deadline_ms": loaded.settings.deadline_ms,
        "machine": machine(),
        "warnings": warnings,
    }


def _bare(loaded: LoadedModel, inputs: list[Any], options: Options) -> list[int]:
    return loaded.bare_inference_ns(inputs, BARE_CALLS) if options.bare else []


def _chosen(drive: Drive, options: Options) -> Iterator[RawFrame]:
    return islice(islice(drive.frames(), 0, None, options.every), options.frames)


def _total(drive: Drive, options: Options) -> int:
    chosen = -(-drive.frame_count // options.every)
    return min(chosen, options.frames or chosen)


def _plain_name(bag: Path) -> str:
    """The name of a bag without the suffixes of its format."""
    name = bag.resolve().name
    # Of a path that is too long Path.is_dir raises; opening the bag then names it.
    while not os.path.isdir(bag) and Path(name).suffix.lower() in SUFFIXES:
        name = Path(name).stem
    return name


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """See `staged`; what cannot be written is an error of the settings."""
    try:
        with staged(out) as folder:
            yield folder
            # Files of an earlier run would not belong to the new ones.
            for name in OF_SOME_RUNS:
                (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(
            f"outputs cannot be written to {out}: {error.strerror or error}; name another folder "
            "with --out, or make room"
        ) from error
