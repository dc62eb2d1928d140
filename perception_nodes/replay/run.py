"""The replay of one drive, from its frames to the outputs."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

from perception_nodes.core.counters import EngineCounters
from perception_nodes.core.frame import latency_ms
from perception_nodes.drives import schemas
from perception_nodes.drives.bag import Drive, RawFrame, open_drive
from perception_nodes.drives.schemas import DETECTIONS, FRAME_REPORT
from perception_nodes.evaluation.labels import LabelledSet
from perception_nodes.networks.model import Model
from perception_nodes.replay import outputs
from perception_nodes.replay.accuracy import accuracy
from perception_nodes.replay.background import Behind, Progress, quick_switches
from perception_nodes.replay.boxes import write_boxes
from perception_nodes.replay.clocks import LockstepClock, RealTimeClock
from perception_nodes.replay.followed import Followed
from perception_nodes.replay.golden import Golden, GoldenError, as_kept, made_with_another_model
from perception_nodes.replay.offline_camera import Camera, LoadedModel, Outcome, ReplaySettings
from perception_nodes.replay.pieces import PiecesClock
from perception_nodes.replay.tables import write_tables
from perception_nodes.report import recording as recorded
from perception_nodes.report.accelerator import ENGINE_FILE, engine_csv, engine_summary
from perception_nodes.report.changes import Change, Comparison, Tolerance, objects_of
from perception_nodes.report.chosen_frames import ChosenFrames
from perception_nodes.system.files import staged, write_whole
from perception_nodes.system.processes import machine
from perception_nodes.transport.cdr_writer import write_frame_report

Mode = Literal["lockstep", "realtime"]
BARE_CALLS = 200
BEHIND = 8
"""Frames that may wait to be written."""
AIMED_TIMING_ERROR_MS = 0.5
LockstepClocks = Callable[[Camera], LockstepClock | PiecesClock]


class DriveCamera(NamedTuple):
    """One camera of a bag, under a name that is unique within a command."""

    name: str
    path: Path
    topic: str


@dataclass(frozen=True)
class ReplayOptions:
    """What to replay of a drive, and what to do with it.

    Attributes:
        mode: in simulated time, or with the recorded timing.
        rate: speed in real time; 2 is twice as fast as recorded.
        every: only one frame in this many is replayed.
        frames: number of replayed frames after which to stop; None for all.
        pictures: whether to write pictures into the recording.
        picture_format: see `PictureWriter`.
        video: whether to write `annotated.mp4`.
        bare: whether to measure bare inference too, and compare the speed with it.
        golden: golden to compare with; None for none.
        tolerance: tolerance of that comparison.
        labels: labels of the frames; None for none.
        labels_topic: topic of the bags that holds labels; empty for none.
        tracks: whether to follow the objects.
        boxes: formats in which to write the boxes beside the recording.
        tables: whether to write tables in Parquet.
    """

    mode: Mode = "lockstep"
    rate: float = 1.0
    every: int = 1
    frames: int | None = None
    pictures: bool = True
    picture_format: outputs.PictureFormat = "jpeg"
    video: bool = False
    bare: bool = False
    golden: Golden | None = None
    tolerance: Tolerance = Tolerance()
    labels: LabelledSet | None = None
    labels_topic: str = ""
    tracks: bool = False
    boxes: tuple[str, ...] = ()
    tables: bool = False


def made_with(model: Model, settings: ReplaySettings) -> dict[str, Any]:
    """What a golden records about its making."""
    return {
        "model": model.name,
        "model_sha256": model.sha256,
        "backend": settings.backend,
        "score_threshold": settings.score_threshold,
        **({"second_look": settings.second_look} if settings.second_look else {}),
    }


def replay(
    source: DriveCamera,
    out: Path,
    loaded: LoadedModel,
    options: ReplayOptions,
    progress: Progress,
    clock: LockstepClocks | None = None,
) -> dict[str, Any]:
    """Replay a drive; the outputs appear in their folder once all of them are complete.

    Args:
        source: the drive.
        out: the folder.
        loaded: the model.
        options: how to replay it.
        progress: called for each frame.
        clock: makes the clock for `lockstep`, if workers are to share the frames.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        BagError, UnknownLens, GoldenError, DataError: unusable input.
        OneAfterTheOther: workers cannot share the frames.
        OSError: the folder cannot be written to.
    """
    with open_drive(source.path, source.topic) as drive, staged(out) as folder:
        run = _Run(source, folder, drive, loaded, options, progress)
        in_lockstep = options.mode == "lockstep"
        summary, chosen = run.in_lockstep(clock) if in_lockstep else run.in_real_time()
        recording = run.recording
        if run.tracks is not None:
            summary["objects_followed"] = len(run.tracks.objects)
        if run.comparison is not None:
            run.comparison.finish()
            summary["golden"] = run.comparison.as_json()
        if run.engine_calls:
            summary["engine"] = engine_summary(run.engine_calls)
            write_whole(folder / ENGINE_FILE, engine_csv(run.engine_calls))
        if options.labels is not None or options.labels_topic:
            summary["accuracy"] = accuracy(
                loaded.model, drive, recording, options.labels, options.labels_topic
            )
        write_boxes(folder, options.boxes, recording, drive.frame_files)
        greys = chosen.grey_levels
        summary["grey_level"] = round(median(greys.values()), 1) if greys else None
        summary["heights_px"] = outputs.heights_px(recording)
        outputs.write_summary(folder, summary, recording, chosen)
        if options.tables:
            write_tables(folder, source.name, summary, recording, greys)
        # Outputs of an earlier run would not belong to the new files.
        for name in outputs.OF_SOME_RUNS:
            (out / name).unlink(missing_ok=True)
        return summary


class _Run:
    """One replay of one drive, by one of two clocks.

    Attributes:
        recording: a report with measured stamps for each frame, and detections by frame index.
        engine_calls: the counters of an accelerator, by frame index.
        comparison: the comparison with the golden; None without one.
        tracks: the objects followed; None if they are not.
    """

    def __init__(
        self,
        source: DriveCamera,
        folder: Path,
        drive: Drive,
        loaded: LoadedModel,
        options: ReplayOptions,
        progress: Progress,
    ) -> None:
        self._source, self._folder, self._drive = source, folder, drive
        self._loaded, self._options, self._progress = loaded, options, progress
        self.recording = recorded.Recording(by_number=True)
        self.engine_calls: dict[int, EngineCounters] = {}
        self.comparison, self._notes = _comparison(source, loaded, options)
        self.tracks: Followed | None = None
        chosen = -(-drive.frame_count // options.every)
        self._sent: list[int] = []
        self._total = min(chosen, options.frames or chosen)
        self._camera = Camera(drive.read, loaded, skip_late=options.mode == "realtime")

    def in_lockstep(self, clock_of: LockstepClocks | None) -> tuple[dict[str, Any], ChosenFrames]:
        """Replay every frame under simulated time, and write the pictures meanwhile."""
        bare_ns = self._bare()
        clock = (clock_of or LockstepClock)(self._camera)
        file, chosen = self._folder / outputs.RECORDING_FILE, ChosenFrames(0)
        with recorded.Recorder(file) as recorder, ExitStack() as stack:
            pictures = None
            if self._options.pictures:
                pictures = stack.enter_context(self._pictures(recorder))
                chosen = pictures.chosen
            wall_s = self._play(clock, recorder, pictures)
        bare_ns += self._bare()
        reports, deadline_ms = self.recording.reports, self._loaded.settings.deadline_ms
        speed = {"frames_per_s": round(len(reports) / max(wall_s, 1e-9), 2)}
        if bare_ns:
            speed["bare_frames_per_s"] = round(1e9 * len(bare_ns) / sum(bare_ns), 2)
            speed["share_of_bare"] = round(speed["frames_per_s"] / speed["bare_frames_per_s"], 3)
        facts = {
            "detections_sha256": _sha256(file),
            "over_deadline": sum((latency_ms(r) or 0.0) > deadline_ms for r in reports),
            "speed": speed,
        }
        return self._summary([*self._camera.calibration.notes(), *self._notes], facts), chosen

    def in_real_time(self) -> tuple[dict[str, Any], ChosenFrames]:
        """Replay with the recorded timing, and write the pictures afterwards."""
        clock = RealTimeClock(self._camera, self._options.rate)
        file, chosen = self._folder / outputs.RECORDING_FILE, ChosenFrames(0)
        messages = self._folder / "messages.mcap" if self._options.pictures else file
        with recorded.Recorder(messages) as recorder:
            self._play(clock, recorder, None)
        if self._options.pictures:
            with (
                outputs.MergedRecording(file, messages) as recorder,
                self._pictures(recorder) as pictures,
            ):
                chosen = pictures.chosen
                reports = self.recording.reports
                played = {r.sequence: outputs.Played.of(r, self.recording) for r in reports}
                progress = self._progress_of(f"{self._source.name}: pictures")
                pictures.add_drive(self._drive, played, progress)
            messages.unlink()
        error_ms = clock.timing_error_ms()
        notes = [*self._camera.calibration.notes(), *clock.log_clock.warnings]
        median_ms = error_ms["p50"]
        if median_ms is not None and median_ms > AIMED_TIMING_ERROR_MS:
            notes.append(
                f"frames were released {median_ms:.2f} ms from their time (median), which is more "
                f"than {AIMED_TIMING_ERROR_MS:g} ms: this machine has too much else to do"
            )
        facts = {"rate": self._options.rate, "timing_error_ms": error_ms}
        return self._summary(notes, facts), chosen

    def _play(
        self,
        clock: LockstepClock | PiecesClock | RealTimeClock,
        recorder: recorded.Recorder,
        pictures: outputs.PictureWriter | None,
    ) -> float:
        """Loop over the frames; a thread beside inference writes their outcomes.

        Returns:
            Seconds from the first frame to the last one written.
        """
        for type_name in (DETECTIONS, FRAME_REPORT, schemas.ANNOTATIONS, schemas.COMPRESSED_IMAGE):
            schemas.schema_text(type_name)  # this takes a while the first time
        if self._options.tracks:
            self.tracks = Followed(recorder, self._loaded.model.classes)
        outcomes = clock.outcomes(self._frames())
        progress = self._progress_of(self._source.name)
        begin_s = time.monotonic()
        with quick_switches(), Behind(BEHIND) as behind, closing(outcomes):
            for done, outcome in enumerate(outcomes, 1):
                index = outcome.frame.index
                self.recording.reports.append(outcome.report)
                if outcome.found is not None:
                    self.recording.detections[index] = outcome.found
                if outcome.engine is not None:
                    self.engine_calls[index] = outcome.engine
                behind.call(self._write, outcome, recorder, pictures)
                progress(done, self._total)
        return time.monotonic() - begin_s

    def _frames(self) -> Iterator[RawFrame]:
        """The frames to replay, each of which must have an outcome."""
        every = islice(self._drive.frames(), 0, None, self._options.every)
        for frame in islice(every, self._options.frames):
            self._sent.append(frame.index)
            yield frame

    def _write(
        self, outcome: Outcome, recorder: recorded.Recorder, pictures: outputs.PictureWriter | None
    ) -> None:
        frame, record, found = outcome.frame, outcome.record, outcome.found
        at_ns = frame.log_time_ns
        record.report_number = record.sequence
        if found is not None:
            recorder.write(recorded.DETECTIONS_TOPIC, DETECTIONS, at_ns, outcome.message)
        recorder.write(recorded.FRAME_REPORT_TOPIC, FRAME_REPORT, at_ns, write_frame_report(record))
        if self.tracks is not None:
            self.tracks.add(record, found, at_ns)
        changes: Sequence[Change] = ()
        if self.comparison is not None:
            changes = self.comparison.frame(frame.index, at_ns, as_kept(objects_of(found)))
        if pictures is not None:
            report = recorded.ReportedFrame.of_record(record, at_ns)
            latency = latency_ms(outcome.report)
            result = report, found, latency, outcome.drawn
            played = outputs.Played(record.stamp_ns, at_ns, *result)
            pictures.add(frame, played, changes)

    def _pictures(self, recorder: recorded.Recorder) -> outputs.PictureWriter:
        options, bits = self._options, self._loaded.settings.sample_bits
        video = self._folder / outputs.VIDEO_FILE if options.video else None
        return outputs.PictureWriter(recorder, self._drive, video, options.picture_format, bits)

    def _progress_of(self, name: str) -> Callable[[int, int], None]:
        return lambda done, _: self._progress(name, min(done, self._total), self._total)

    def _bare(self) -> list[int]:
        return self._loaded.bare_inference_ns(BARE_CALLS) if self._options.bare else []

    def _summary(self, warnings: list[str], facts: dict[str, Any]) -> dict[str, Any]:
        loaded, settings = self._loaded, self._loaded.settings
        context = {
            "bag": str(self._source.path),
            "topic": self._drive.topic,
            "path": outputs.OFFLINE,
            "mode": self._options.mode,
            **made_with(loaded.model, settings),
            "precision": loaded.model.precision,
            "runtime": loaded.info.runtime,
            "threads": loaded.info.threads,
            "deadline_ms": settings.deadline_ms,
            "machine": machine(),
            "parameters": {
                one.name: value
                for one in fields(settings)
                if (value := getattr(settings, one.name)) != one.default
            },
            "warnings": warnings,
        }
        return outputs.summary_of(self.recording, self._drive, self._sent, context | facts)


def _comparison(
    source: DriveCamera, loaded: LoadedModel, options: ReplayOptions
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


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
