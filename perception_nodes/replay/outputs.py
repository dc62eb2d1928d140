"""The outputs of a run: summary, Foxglove recording, report and video."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from perception_nodes.core.frame import FrameRejected, latency_ms
from perception_nodes.core.inference import Progress
from perception_nodes.core.statistics import summarize
from perception_nodes.drives import schemas
from perception_nodes.drives.bag import Drive, RawFrame, camera_info_topic
from perception_nodes.drives.log_clock import LogClock
from perception_nodes.replay.boxes import BOX_FILES
from perception_nodes.replay.drawing import Drawer, Drawn, jpeg
from perception_nodes.replay.tables import TABLE_FILES
from perception_nodes.report import recording as recorded
from perception_nodes.report.accelerator import ENGINE_FILE
from perception_nodes.report.account import Heard, account
from perception_nodes.report.annotate import PictureMaker, decoded, draw_changes
from perception_nodes.report.changes import Change
from perception_nodes.report.chosen_frames import ChosenFrames
from perception_nodes.report.foxglove import compressed_video, image_annotations
from perception_nodes.report.timing import TIMING_FILE, timing_csv
from perception_nodes.system.files import write_whole
from perception_nodes.transport.cdr_writer import write_compressed_image
from perception_nodes.video.encode import VideoFile, VideoPackets

RECORDING_FILE = "detections.mcap"
OFFLINE = "offline"
"""The path of frames in the summary of `perception replay`, which runs without ROS."""
SUMMARY_FILE = "summary.json"
VIDEO_FILE = "annotated.mp4"
REPORT_FILE, OVERVIEW_FILE = "report.html", "overview.png"
MARKER = "complete.json"
"""File that a worker leaves in the folder of a drive; see `corpus`."""
TABLE, FLEET = "drives.csv", "fleet.html"
"""Table and page of several drives, beside their folders."""
OF_SOME_RUNS = (VIDEO_FILE, ENGINE_FILE, MARKER, TABLE, FLEET, *BOX_FILES.values(), *TABLE_FILES)
OF_EVERY_RUN = (RECORDING_FILE, REPORT_FILE, OVERVIEW_FILE, TIMING_FILE, SUMMARY_FILE)
OUTPUTS = (*OF_SOME_RUNS, *OF_EVERY_RUN)
IMAGE_TOPIC = "/camera/image/compressed"
VIDEO_TOPIC = "/camera/image/foxglove"
PictureFormat = Literal["jpeg", "h264"]
"""How a recording keeps the pictures; see `PictureWriter`."""
ANNOTATIONS_TOPIC = "/perception/annotations"
ANNOTATED_TOPIC = "/perception/annotated/compressed"
"""The picture with its boxes drawn in, for viewers without annotations, such as rviz."""


def finish(
    out_dir: str | Path,
    recording_path: str | Path,
    drive: Drive,
    sent: Sequence[tuple[int, int]],
    context: dict[str, Any],
    progress: Progress | None = None,
    sample_bits: int = 0,
) -> dict[str, Any]:
    """Write all outputs of a run from the recording of its messages.

    These are `summary.json`, `detections.mcap`, `report.html`, `overview.png`, `timing.csv` and
    `annotated.mp4`. The drive is read once, frame by frame, so memory does not grow with the number
    of pictures. Each file appears when it is complete.

    Args:
        out_dir: folder for the outputs; it is made if needed.
        recording_path: mcap file with detections, frame reports and health.
        drive: the drive that was played.
        sent: index in the drive and `header.stamp` in nanoseconds of each frame played.
        context: facts for the summary: bag, model, backend, deadline_ms, machine, ...; its
            `warnings` are joined with the drive's.
        progress: called for each frame.
        sample_bits: see `PictureWriter`.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        RecordingError: the recording cannot be read.
        BagError: the drive cannot be read any more.
    """
    recording = recorded.read_recording(recording_path)
    reports = {report.stamp_ns: report for report in recording.reports}
    played = {}
    for index, stamp_ns in sent:
        if stamp_ns in reports:
            played[index] = Played.of(reports[stamp_ns], recording)
        else:
            found = recording.detections.get(stamp_ns)
            played[index] = Played(stamp_ns, stamp_ns, None, found, None)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    with (
        MergedRecording(out / RECORDING_FILE, recording_path) as merged,
        PictureWriter(merged, drive, out / VIDEO_FILE, sample_bits=sample_bits) as pictures,
    ):
        pictures.add_drive(drive, played, progress)
    summary = summary_of(recording, drive, [stamp_ns for _, stamp_ns in sent], context)
    write_summary(out, summary, recording, pictures.chosen)
    return summary


class Played(NamedTuple):
    """The result of a frame that was played.

    Attributes:
        stamp_ns: stamp of the frame.
        log_time_ns: log time of its messages.
        report, found: report and objects; None where there are none.
        latency_ms: from capture to publish; None if it was not published.
        drawn: its pictures; None to draw them when they are written.
    """

    stamp_ns: int
    log_time_ns: int
    report: recorded.ReportedFrame | None
    found: recorded.FrameDetections | None
    latency_ms: float | None
    drawn: Drawn | None = None

    @classmethod
    def of(cls, report: recorded.ReportedFrame, recording: recorded.Recording) -> "Played":
        """The result of a frame that has a report in a recording."""
        found = recording.found(report)
        return cls(report.stamp_ns, report.log_time_ns, report, found, latency_ms(report))


def write_summary(
    out: Path, summary: dict[str, Any], recording: recorded.Recording, chosen: ChosenFrames
) -> None:
    """Write `report.html`, `overview.png`, `timing.csv` and `summary.json`."""
    # Matplotlib takes a second to load.
    from perception_nodes.report.drive_report import render
    from perception_nodes.report.overview import overview

    write_whole(out / REPORT_FILE, render(summary, recording, chosen))
    write_whole(out / OVERVIEW_FILE, overview(summary, recording, chosen))
    write_whole(out / TIMING_FILE, timing_csv(recording.reports))
    write_whole(out / SUMMARY_FILE, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")


def remove_outputs(folder: Path, drives: Iterable[Path]) -> None:
    """Remove what an earlier run has left in a folder, and the folder if nothing else is in it.

    Args:
        folder: may be missing.
        drives: recorded drives; nothing is removed if one of them is this folder or lies in it.

    Raises:
        OSError: something cannot be removed.
    """
    whole = folder.resolve()
    if not folder.is_dir() or any(whole in (it.resolve(), it.resolve().parent) for it in drives):
        return
    for name in OUTPUTS:
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # there is more in it
        folder.rmdir()


def summary_of(
    recording: recorded.Recording, drive: Drive, sent: Sequence[int], context: dict[str, Any]
) -> dict[str, Any]:
    """The facts of a run, as in `summary.json`.

    Args:
        recording: what the run published.
        drive: the drive that was played, with its warnings and its loss.
        sent: stamps of the frames played; if the recording is by number, their numbers.
        context: other facts, which come first.
    """
    facts = summarize(recording.reports)
    if "over_deadline" in context:
        # Under simulated time no deadline is missed, however long the work takes.
        facts["miss_rate"] = None
    start_ns = recording.reports[0].log_time_ns if recording.reports else 0
    return {
        **context,
        "frames_sent": len(sent),
        **facts,
        "unaccounted": account(Heard.of(recording, sent)).unaccounted,
        "lost_in_bag": drive.lost,
        "health": [
            {
                "at_s": round((change.log_time_ns - start_ns) / 1e9, 3) if start_ns else None,
                "mode": change.mode.name,
                "cause": change.cause,
            }
            for change in recording.health
        ],
        "warnings": list(dict.fromkeys([*context.get("warnings", []), *drive.warnings])),
    }


def heights_px(recording: recorded.Recording) -> dict[str, Counter[str]]:
    """How many objects of each class have a height of so many pixels, up to twice as many."""
    counts: dict[str, Counter[str]] = {}
    for found in recording.detections.values():
        heights = np.maximum(found.boxes[:, 3] - found.boxes[:, 1], 1)
        octaves = 2 ** np.log2(heights).astype(int)
        for label, octave in zip(found.labels, octaves.tolist(), strict=True):
            counts.setdefault(label, Counter())[str(octave)] += 1
    return counts


class PictureWriter(AbstractContextManager["PictureWriter"]):
    """Writes the pictures of a run: into its recording, with annotations, and into a video."""

    def __init__(
        self,
        recorder: recorded.Recorder,
        drive: Drive,
        video: Path | None,
        picture_format: PictureFormat = "jpeg",
        sample_bits: int = 0,
    ) -> None:
        """Take the files; nothing is written yet.

        Args:
            recorder: recording of the run; it stays open.
            drive: the drive of the frames.
            video: file to write, which plays in the recorded time; None for no video.
            picture_format: `jpeg`, scaled for people, each with a copy that shows the boxes; or
                `h264`, a video topic in the size of the frames, with their calibration, so that
                the recording can be replayed.
            sample_bits: of the network's input, so that the pictures show what the model saw; see
                `Preprocessor`.
        """
        self._recorder = recorder
        self._read, self._drawer = drive.read, Drawer(drive.read, sample_bits)
        self._video = VideoFile(video) if video is not None else None
        self._log_clock = LogClock()
        self._packets = VideoPackets() if picture_format == "h264" else None
        self._whole = PictureMaker(False, sample_bits)
        self._info: bytes | None = None
        self.chosen = ChosenFrames(drive.frame_count)

    def add_drive(
        self, drive: Drive, played: Mapping[int, Played], progress: Progress | None = None
    ) -> None:
        """Write the frames of a drive that were played.

        Args:
            drive: the drive.
            played: the results of its frames, by index.
            progress: called for each frame.
        """
        for frame in drive.frames():
            if progress is not None:
                progress(frame.index + 1, drive.frame_count)
            if frame.index in played:
                self.add(frame, played[frame.index])

    def add(self, frame: RawFrame, played: Played, changes: Sequence[Change] = ()) -> None:
        """Write a frame with its result, and with its changes against a golden."""
        stamp_ns, log_time_ns, report, found, latency, drawn = played
        drawn = drawn or self._drawer.drawn(frame, report, found)
        self._drawer.size_px = drawn.size_px
        if drawn.grey_level is not None:
            self.chosen.grey_levels[frame.index] = drawn.grey_level
        frame_id = report.frame_id if report else ""
        write = self._recorder.write
        if self._packets is not None:
            self._write_packet(frame, stamp_ns, log_time_ns, frame_id, self._packets)
        else:
            plain = write_compressed_image(stamp_ns, frame_id, "jpeg", drawn.plain)
            write(IMAGE_TOPIC, schemas.COMPRESSED_IMAGE, log_time_ns, plain)
        if found is not None:
            annotations = image_annotations(stamp_ns, found, 1.0 if self._packets else drawn.scale)
            write(ANNOTATIONS_TOPIC, schemas.ANNOTATIONS, log_time_ns, annotations)
        self.chosen.film.take(frame.index, drawn.plain, drawn.scale, report, found, changes)
        if self._packets is None:
            annotated = write_compressed_image(stamp_ns, frame_id, "jpeg", drawn.annotated)
            write(ANNOTATED_TOPIC, schemas.COMPRESSED_IMAGE, log_time_ns, annotated)
        if self._video is not None and drawn.picture is not None:
            self._video.write(drawn.picture, self._log_clock.passed_ns(frame))
        self.chosen.take(frame.index, drawn.annotated, latency, 0 if found is None else len(found))
        if self.chosen.wants(frame.index, len(changes)):
            bare = decoded(drawn.plain)
            draw_changes(bare, drawn.scale, changes)
            self.chosen.take_changed(frame.index, jpeg(bare), changes)

    def _write_packet(
        self, frame: RawFrame, stamp_ns: int, log_time_ns: int, frame_id: str, packets: VideoPackets
    ) -> None:
        """Append a frame to the video topic, unless it cannot be read."""
        if frame.camera_info is not None and frame.camera_info != self._info:
            self._info = frame.camera_info
            info_topic = camera_info_topic(VIDEO_TOPIC)
            self._recorder.write(info_topic, schemas.CAMERA_INFO, log_time_ns, frame.camera_info)
        with suppress(FrameRejected):
            packet = packets.encode(self._whole.of(self._read(frame.data))[0])
            message = compressed_video(stamp_ns, frame_id, packet)
            self._recorder.write(VIDEO_TOPIC, schemas.COMPRESSED_VIDEO, log_time_ns, message)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Complete the video; after an error, remove it."""
        if self._video is not None:
            self._video.close(complete=kind is None)


class MergedRecording(recorded.Recorder):
    """A recording that merges in the messages of another one, in the order of log times."""

    def __init__(self, path: Path, other: str | Path) -> None:
        super().__init__(path)
        self._others: Iterator[recorded.Recorded] = recorded.read_messages(other)
        self._next = next(self._others, None)

    def write(
        self, topic: str, type_name: str, log_time_ns: int, cdr_bytes: bytes, definition: str = ""
    ) -> None:
        """Append a message after those of the other recording up to its log time."""
        self._take_over(log_time_ns)
        super().write(topic, type_name, log_time_ns, cdr_bytes, definition)

    def close(self) -> None:
        """Append the rest of the other recording and close."""
        self._take_over(None)
        super().close()

    def _take_over(self, until_ns: int | None) -> None:
        while self._next and (until_ns is None or self._next.log_time_ns <= until_ns):
            super().write(*self._next)
            self._next = next(self._others, None)
