"""Prepares the drive that a bench plays: cuts it, applies faults of the picture, compresses it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from perception_nodes.core.frame import FrameRejected
from perception_nodes.drives.bag import BagError, RawFrame, camera_info_topic, open_drive
from perception_nodes.drives.image_messages import picture_message
from perception_nodes.drives.log_clock import LogClock
from perception_nodes.drives.schemas import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE
from perception_nodes.faults.scenario import PictureFault, Scenario
from perception_nodes.faults.weather import with_weather
from perception_nodes.preprocess.converter import Converter
from perception_nodes.report.recording import Recorder

TOPICS = {IMAGE: "/camera/image_raw", COMPRESSED_IMAGE: "/camera/image_raw/compressed"}
JPEG_QUALITY = 90
"""JPEG quality of changed pictures in a drive that was JPEG already."""


def needs_preparation(scenario: Scenario) -> bool:
    """Whether the drive must be changed before it is played."""
    weather = any(isinstance(fault, PictureFault) for fault in scenario.faults)
    return bool(weather or scenario.duration_s or scenario.jpeg_quality)


def prepare(scenario: Scenario, path: Path, disturbed: bool) -> dict[int, int]:
    """Write the drive as it will be played; doing that later would take time from the graph.

    Args:
        scenario: names the drive, and what to do to it.
        path: the mcap file to write.
        disturbed: whether to apply the faults of the picture.

    Returns:
        The number of frames that each fault of the picture has changed, by its number in the
        scenario.

    Raises:
        BagError: the drive cannot be read.
    """
    weather = {
        number: fault
        for number, fault in enumerate(scenario.faults)
        if isinstance(fault, PictureFault) and disturbed
    }
    hits = dict.fromkeys(weather, 0)
    drive = open_drive(scenario.drive, str(scenario.graph.get("topic", "")))
    was_jpeg = drive.message_type == COMPRESSED_IMAGE
    quality = scenario.jpeg_quality or (JPEG_QUALITY if was_jpeg else 0)
    kind = COMPRESSED_IMAGE if quality else IMAGE
    with closing(drive), Recorder(path) as recorder:
        if (info := drive.camera_info()) is not None:
            recorder.write(camera_info_topic(TOPICS[kind]), CAMERA_INFO, 1, info)
        for frame in _of_length(drive.frames, scenario.duration_s):
            at_s, data = frame.log_time_ns / 1e9, frame.data
            now = {n: f for n, f in weather.items() if f.after_s <= at_s < f.end_s}
            if now or scenario.jpeg_quality:
                try:
                    picture = Converter().convert(drive.read(data))
                except FrameRejected as error:
                    raise BagError(f"{scenario.drive}: frame {frame.index}: {error}") from error
                for number, fault in now.items():
                    hits[number] += 1
                    picture = with_weather(fault.kind, picture, fault.strength, frame.index)
                data = picture_message(picture, quality)
            # A log time of 0 would mean that it is not known.
            recorder.write(TOPICS[kind], kind, frame.log_time_ns + 1, data)
    return hits


def _of_length(frames: Callable[[], Iterable[RawFrame]], duration_s: float) -> Iterator[RawFrame]:
    """The frames, with times from 0; a drive that is too short is repeated."""
    offset_ns, count, period_ns = 0, 0, 0
    until_ns = round(duration_s * 1e9)
    while True:
        clock, last_ns = LogClock(), None
        for frame in frames():
            at_ns = offset_ns + clock.passed_ns(frame)
            if duration_s and at_ns >= until_ns:
                return
            period_ns = period_ns if last_ns is None else at_ns - last_ns
            last_ns = at_ns
            yield RawFrame(count, at_ns, frame.data)
            count += 1
        if not duration_s or last_ns is None:
            return
        offset_ns = last_ns + max(period_ns, 1_000_000)
