"""What a run leaves behind: summary, Foxglove recording, report and video, from its recording."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from perception_nodes.core.frame import FrameRejected, latency_ms
from perception_nodes.core.statistics import summarize
from perception_nodes.replay.annotate import Picture, PictureMaker, blank, draw
from perception_nodes.replay.bag import Drive, RawFrame
from perception_nodes.replay.foxglove import compressed_image, image_annotations
from perception_nodes.replay.recording import (
    FrameReport,
    Recorded,
    Recorder,
    Recording,
    read_messages,
    read_recording,
)
from perception_nodes.replay.report import Shot, render
from perception_nodes.replay.schemas import ANNOTATIONS, COMPRESSED_IMAGE

IMAGE_TOPIC = "/camera/image/compressed"
ANNOTATIONS_TOPIC = "/perception/annotations"
JPEG_QUALITY = 85
SPREAD_SHOTS = 6
DEFAULT_FPS = 10.0
Progress = Callable[[int, int], None]
"""Called with the frames done and the frames there are."""


def finish(
    out_dir: str | Path,
    recording_path: str | Path,
    drive: Drive,
    sent: Sequence[tuple[int, int]],
    context: dict[str, Any],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `summary.json`, `detections.mcap`, `report.html` and `annotated.mp4`.

    The drive is read once, frame by frame: memory does not grow with its pictures. Each file
    appears when it is complete.

    Args:
        out_dir: folder, made where it is not there.
        recording_path: mcap of the run's detections, frame reports and health.
        drive: what was played.
        sent: index in the drive and `header.stamp` in nanoseconds of each frame played.
        context: facts for the summary: bag, model, backend, deadline_ms, machine, ...; its
            `warnings` are joined with the drive's.
        progress: hears of each frame.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        RecordingError: the recording cannot be read.
        BagError: the drive cannot be read any more.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    recording = read_recording(recording_path)
    shots = _Shots(recording, sent)
    _write_pictures(out, recording_path, recording, drive, sent, shots, progress)
    summary = _summary(recording, drive, sent, context)
    _write_text(out / "report.html", render(summary, recording, shots.taken))
    _write_text(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return summary


def _summary(
    recording: Recording, drive: Drive, sent: Sequence[tuple[int, int]], context: dict[str, Any]
) -> dict[str, Any]:
    facts = summarize(recording.reports)
    start_ns = recording.reports[0].log_time_ns if recording.reports else 0
    return {
        **context,
        "frames_sent": len(sent),
        **facts,
        "lost_before_ingest": len(sent) - facts["frames_in"],
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


def _write_pictures(
    out: Path,
    recording_path: str | Path,
    recording: Recording,
    drive: Drive,
    sent: Sequence[tuple[int, int]],
    shots: "_Shots",
    progress: Progress | None,
) -> None:
    """Go through the drive once, for everything that shows its frames."""
    stamps = dict(sent)
    reports = {report.stamp_ns: report for report in recording.reports}
    maker = PictureMaker(drive.message_type)
    with ExitStack() as stack:
        merged = stack.enter_context(_Merged(out / "detections.mcap", recording_path))
        video = stack.enter_context(_Video(out / "annotated.mp4", _frame_rate(drive)))
        for frame in drive.frames():
            if progress is not None:
                progress(frame.index + 1, drive.frame_count)
            stamp_ns = stamps.get(frame.index)
            if stamp_ns is None:
                continue
            picture, scale = _picture(maker, frame, video.size)
            report, found = reports.get(stamp_ns), recording.detections.get(stamp_ns)
            log_time_ns = report.log_time_ns if report else stamp_ns
            frame_id = report.frame_id if report else ""
            merged.write(
                IMAGE_TOPIC,
                COMPRESSED_IMAGE,
                log_time_ns,
                compressed_image(stamp_ns, frame_id, _jpeg(picture)),
            )
            if found is not None:
                annotations = image_annotations(stamp_ns, found, scale)
                merged.write(ANNOTATIONS_TOPIC, ANNOTATIONS, log_time_ns, annotations)
            draw(picture, scale, found, report)
            video.write(picture)
            shots.take(stamp_ns, picture)


def _picture(maker: PictureMaker, frame: RawFrame, size: tuple[int, int]) -> tuple[Picture, float]:
    try:
        return maker.make(frame.data)
    except FrameRejected as error:
        width, height = size if any(size) else (640, 360)
        return blank(width, height, f"frame {frame.index}: {error}"), 1.0


def _frame_rate(drive: Drive) -> float:
    """Frames a second at which the drive was recorded, as far as a video can have it."""
    if drive.frame_count < 2 or drive.duration_ns <= 0:
        return DEFAULT_FPS
    return min(max((drive.frame_count - 1) / (drive.duration_ns / 1e9), 1.0), 120.0)


def _jpeg(picture: Picture) -> bytes:
    return bytes(simplejpeg.encode_jpeg(picture, JPEG_QUALITY, "BGR", "420"))


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


class _Merged(Recorder):
    """A recording that takes over another one's messages, in the order of their log times."""

    def __init__(self, path: Path, other: str | Path) -> None:
        super().__init__(path)
        self._others: Iterator[Recorded] = read_messages(other)
        self._next = next(self._others, None)

    def write(self, topic: str, type_name: str, log_time_ns: int, cdr_bytes: bytes) -> None:
        """Append a message behind what the other recording has of that time."""
        self._take_over(log_time_ns)
        super().write(topic, type_name, log_time_ns, cdr_bytes)

    def close(self) -> None:
        """Take over the rest and close."""
        self._take_over(None)
        super().close()

    def _take_over(self, until_ns: int | None) -> None:
        while self._next and (until_ns is None or self._next.log_time_ns <= until_ns):
            super().write(*self._next)
            self._next = next(self._others, None)


class _Video:
    """An MPEG-4 file with the size of its first picture."""

    def __init__(self, path: Path, frame_rate: float) -> None:
        self._path = path
        # OpenCV takes the container from the suffix.
        self._partial = path.with_name(f".{path.stem}.part{path.suffix}")
        self._frame_rate = frame_rate
        self._writer: cv2.VideoWriter | None = None
        self.size = (0, 0)

    def write(self, picture: Picture) -> None:
        """Append a picture; one of another size is scaled."""
        height, width = picture.shape[:2]
        if self._writer is None:
            self.size = (width, height)
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(
                str(self._partial), cv2.CAP_FFMPEG, codec, self._frame_rate, self.size
            )
        if (width, height) != self.size:
            picture = cv2.resize(picture, self.size).astype(np.uint8, copy=False)
        self._writer.write(picture)

    def __enter__(self) -> "_Video":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)


class _Shots:
    """The frames shown in the report: the slowest, the most crowded, and some evenly spread."""

    def __init__(self, recording: Recording, sent: Sequence[tuple[int, int]]) -> None:
        self._captions: dict[int, str] = {}
        self.taken: list[Shot] = []
        stamps = {stamp_ns for _, stamp_ns in sent}
        published = [r for r in recording.reports if r.published_ns and r.stamp_ns in stamps]
        if published:
            slowest = max(published, key=_latency)
            self._captions[slowest.stamp_ns] = f"slowest: {_latency(slowest):.1f} ms"
            crowded = max(published, key=lambda r: r.detections)
            self._captions.setdefault(crowded.stamp_ns, f"most objects: {crowded.detections}")
        last = len(sent) - 1
        for step in range(min(SPREAD_SHOTS, len(sent))):
            index, stamp_ns = sent[last * step // max(SPREAD_SHOTS - 1, 1)]
            self._captions.setdefault(stamp_ns, f"frame {index}")

    def take(self, stamp_ns: int, picture: Picture) -> None:
        """Keep a frame's picture where it is one to be shown."""
        caption = self._captions.get(stamp_ns)
        if caption is not None:
            self.taken.append(Shot(caption, _jpeg(picture)))


def _latency(report: FrameReport) -> float:
    return latency_ms(report) or 0.0
