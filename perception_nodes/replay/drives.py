"""The recorded drives of a command: found, replayed one after the other or by workers, judged."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from perception_nodes.core.errors import InputError
from perception_nodes.drives.bag import BagError, image_topics, open_drive
from perception_nodes.drives.decompression import COMPRESSED
from perception_nodes.drives.image_storage import images_like
from perception_nodes.drives.video_storage import VIDEO_SUFFIXES
from perception_nodes.evaluation.datasets import read_set
from perception_nodes.evaluation.matching import require_pycocotools
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import Model
from perception_nodes.replay import corpus, tables
from perception_nodes.replay.background import Progress
from perception_nodes.replay.golden import Golden, golden_text, read_golden
from perception_nodes.replay.offline_camera import LoadedModel, ReplaySettings
from perception_nodes.replay.outputs import RECORDING_FILE
from perception_nodes.replay.run import DriveCamera, ReplayOptions, made_with, replay
from perception_nodes.report.changes import frames_of
from perception_nodes.report.drive_report import nothing_found, unaccounted
from perception_nodes.report.recording import read_recording
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.files import write_whole
from perception_nodes.system.object_path import ObjectPath

ALL_TOPICS = "all"
SUFFIXES = (".mcap", ".db3", ".bag", *COMPRESSED, *VIDEO_SUFFIXES)
"""Suffixes of file names that stand for the format of a recorded drive."""


@dataclass(frozen=True)
class ReplayRequest:
    """Which drives to replay, and where.

    Attributes:
        bags: recorded drives.
        out: folder for the outputs; several drives have a folder each in it.
        corpus: file that lists more drives; None for none.
        topics: image topics, `all` for every topic of a bag; empty to find one by type.
        workers: drives replayed at a time, or processes that share a single one.
        ray: address of a Ray cluster; empty for none.
        golden: golden file to compare with or to write; None for none.
        update: whether to write the golden file.
        labels: labelled set of the frames; None for none.
    """

    bags: Sequence[Path]
    out: Path
    corpus: Path | None = None
    topics: Sequence[str] = ()
    workers: int = 1
    ray: str = ""
    golden: Path | None = None
    update: bool = False
    labels: Path | None = None

    @property
    def is_sharded(self) -> bool:
        """Whether workers replay the drives."""
        return bool(self.corpus or self.workers > 1 or self.ray or isinstance(self.out, ObjectPath))

    def check(self, options: ReplayOptions, second_look: int) -> None:
        """Refuse a request that does not suit the options.

        Raises:
            SettingsError: the text names the options of the command.
        """
        real_time = options.mode == "realtime"
        nothing = not self.bags and self.corpus is None
        refusals = {
            "name a recorded drive, or two runs with --compare A B": nothing,
            "--golden and --bare need --mode lockstep: in real time frames may be dropped": (
                real_time and (self.golden or options.bare)
            ),
            "--workers goes with neither --mode realtime nor --bare: drives beside each other "
            "would be measured against each other": (
                self.workers > 1 and (real_time or options.bare)
            ),
            "--rate needs --mode realtime: lockstep is as fast as it can be": (
                options.rate != 1 and not real_time
            ),
            "--second-look needs --mode lockstep: looks follow a schedule": (
                real_time and second_look > 0
            ),
            "--update needs --golden FILE, the file to write": self.update and not self.golden,
            "--update needs --out on this machine, not a URL": (
                self.update and isinstance(self.out, ObjectPath)
            ),
            "--golden and --labels are on this machine; fetch what is at a URL": (
                any(":/" in str(one) for one in (self.golden, self.labels))
            ),
            "--video shows the pictures that --no-pictures leaves out; give one": (
                options.video and not options.pictures
            ),
        }
        for reason, is_refused in refusals.items():
            if is_refused:
                raise SettingsError(reason)


@dataclass(frozen=True)
class Replayed:
    """The results of the drives.

    Attributes:
        summaries: by drive, as in `summary.json`.
        failed: the reasons of drives without a summary.
        whole: content of `summary.json` in the folder for the outputs.
        is_one: whether that is the summary of a single drive.
        left_out: drives of the golden that a corpus lacks.
        golden: the golden file that was written; None if none was.
    """

    summaries: dict[str, dict[str, Any]]
    failed: dict[str, str]
    whole: dict[str, Any]
    is_one: bool
    left_out: Sequence[str]
    golden: Path | None

    @property
    def broken(self) -> list[str]:
        """Drives of which every frame failed."""
        return [name for name, summary in self.summaries.items() if _is_broken(summary)]

    @property
    def status(self) -> int:
        """0 if all is well, 2 if a drive failed, 1 if a frame is unaccounted for or the like."""
        summaries = self.summaries.values()
        if self.failed or self.broken:
            return 2
        changed = any(summary.get("golden", {}).get("changes") for summary in summaries)
        lost = any(map(unaccounted, summaries))
        return int(bool(lost or changed or self.left_out or all(map(nothing_found, summaries))))


class Drives:
    """The drives of a request.

    Attributes:
        sources: the cameras to replay.
    """

    def __init__(
        self, request: ReplayRequest, model: Model, settings: ReplaySettings, options: ReplayOptions
    ) -> None:
        """Find the drives.

        Args:
            request: which drives.
            model: the model, which `settings` name.
            settings: how it runs.
            options: what to do with each drive, without golden and labels.

        Raises:
            BagError, GoldenError, DataError: the request cannot be met.
            EvaluationNotInstalled: there are labels, and pycocotools is not installed.
        """
        if request.labels is not None or options.labels_topic:
            require_pycocotools()
        labels = None if request.labels is None else read_set(request.labels)
        expected = None
        if request.golden is not None and not request.update:
            expected = read_golden(request.golden)
        if request.is_sharded and not settings.threads:
            cores = len(os.sched_getaffinity(0))
            settings = replace(settings, threads=max(cores // request.workers, 1))
        self._request, self._model, self._settings = request, model, settings
        listed = corpus.read_corpus(request.corpus) if request.corpus is not None else []
        self._named = [*_together(request.bags), *listed]
        several = len(self._named) > 1 or request.is_sharded
        self.sources = sources(self._named, request.topics, keep_unreadable=several)
        self._is_one = len(self.sources) == 1 and not request.is_sharded
        with_tables = tables.available() and not self._is_one
        self._options = replace(options, golden=expected, labels=labels, tables=with_tables)

    def replay(self, progress: Progress) -> Replayed:
        """Replay them in this process.

        A drive that cannot be used does not end the others. A path that does not exist is a mistake
        of the caller and raises before any work.

        Raises:
            InputError: the only drive cannot be used, or the settings suit none.
        """
        summaries: dict[str, dict[str, Any]] = {}
        failed: dict[str, str] = {}
        for source in self.sources:
            if not os.path.exists(source.path):
                open_drive(source.path, source.topic).close()  # it may be a pattern of names
        with LoadedModel(self._settings, str(cache_folder())) as loaded:
            for source in self.sources:
                try:
                    folder = self._folder(source.name)
                    summaries[source.name] = replay(source, folder, loaded, self._options, progress)
                except InputError as error:
                    if self._is_one:
                        raise
                    failed[source.name] = str(error)
        return self._replayed(summaries, failed)

    def replay_by_workers(self, progress: Progress) -> Replayed:
        """Replay them by workers, and keep the results of an earlier run that are still valid.

        Args:
            progress: called with the progress of each drive, also from other threads.

        Raises:
            SettingsError, ModelError, BackendError: the settings suit no drive.
        """
        from perception_nodes.replay.workers import local_workers, ray_workers

        request = self._request
        inputs = [Path(file) for file in [request.golden, self._settings.calibration_file] if file]
        jobs = corpus.jobs_of(
            self.sources, request.out, self._model, self._settings, self._options, inputs
        )
        results: dict[str, corpus.Result] = {}
        with corpus.alone_in(request.out):
            workers = partial(ray_workers, request.ray) if request.ray else local_workers
            with workers(request.workers, progress) as submit:
                for result in corpus.replay_corpus(jobs, submit, request.workers, progress):
                    results[result.name] = result
                    progress(result.name, *((0, 0) if result.summary is None else (1, 1)))
        ordered = [results[job.source.name] for job in jobs]
        summaries = {one.name: one.summary for one in ordered if one.summary is not None}
        failed = {one.name: one.error for one in ordered if one.summary is None}
        return self._replayed(summaries, failed)

    def _folder(self, name: str) -> Path:
        return self._request.out if self._is_one else self._request.out / name

    def _replayed(self, summaries: dict[str, dict[str, Any]], failed: dict[str, str]) -> Replayed:
        request, expected = self._request, self._options.golden
        written = None
        usable = not (failed or any(map(_is_broken, summaries.values())))
        if request.update and request.golden and usable:
            written = request.golden
            drives = {
                name: frames_of(read_recording(self._folder(name) / RECORDING_FILE, by_number=True))
                for name in summaries
            }
            made = made_with(self._model, self._settings)
            write_whole(written, golden_text(Golden(made, drives)))
        if self._is_one:
            whole = next(iter(summaries.values()))
        else:
            whole = corpus.merged(summaries, failed, request.out, self._named)
        # Bags on the command line may be a part on purpose; a corpus must hold the whole golden.
        left_out: list[str] = []
        if request.corpus is not None and expected is not None:
            left_out = sorted(expected.drives.keys() - summaries)
        return Replayed(summaries, failed, whole, self._is_one, left_out, written)


def _is_broken(summary: dict[str, Any]) -> bool:
    return bool(summary["frames_in"]) and summary["status"]["FAILED"] == summary["frames_in"]


def sources(
    bags: Sequence[Path], topics: Sequence[str], keep_unreadable: bool = False
) -> list[DriveCamera]:
    """List the cameras to replay.

    Args:
        bags: recorded drives.
        topics: image topics, `all` for every topic of a bag; empty to find one by type.
        keep_unreadable: list a bag whose topics cannot be read as one camera; its replay will then
            fail and name the reason.

    Raises:
        BagError: the topics of a bag are needed and cannot be read.
    """
    found: dict[str, DriveCamera] = {}
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
            found[name] = DriveCamera(name, bag, topic)
    return list(found.values())


def _together(bags: Sequence[Path]) -> Sequence[Path]:
    """Images that a shell has listed for a pattern are one drive: the pattern."""
    patterns = {bag.parent / f"*{bag.suffix}" for bag in bags}
    if len(bags) > 1 and len(patterns) == 1:
        pattern = patterns.pop()
        if len(images_like(pattern)) == len(bags):
            return [pattern]
    return bags


def _plain_name(bag: Path) -> str:
    """The name of a bag without the suffixes of its format."""
    name = bag.resolve().name
    # Path.is_dir raises for a path that is too long; opening the bag names it.
    while not os.path.isdir(bag) and Path(name).suffix.lower() in SUFFIXES:
        name = Path(name).stem
    return name
