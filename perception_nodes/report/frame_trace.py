"""A trace for ui.perfetto.dev that shows where the time of frames goes, by their reports."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perception_nodes.core.frame import PUBLISHED, STAMPS, FrameStatus
from perception_nodes.core.statistics import as_text
from perception_nodes.drives.schemas import FRAME_REPORT, TRACKS
from perception_nodes.report import recording
from perception_nodes.report.perfetto import Facts, Lane, Trace

PROCESSES = {
    "camera": ("ingest",),
    "preprocess_node": ("preprocess",),
    "detector_node": ("inference", "postprocess", "publish"),
}
"""The process of each stage of a frame; ingest is the way from the camera to preprocessing."""
TRACKER = "tracker_node"


Tracked = dict[tuple[str, int, int], tuple[int, int]]
"""By camera, sequence and stamp of a frame: when its tracks were recorded, and how many.

That is when the recorder got them, by the clock of the stamps. The message does not hold the time
of publishing: `predicted_to` may lie before or after it.
"""


def read_traced(path: Path) -> tuple[list[recording.ReportedFrame], Tracked]:
    """The frames of a recording of frame reports, and their tracks.

    Raises:
        RecordingError: it cannot be read, or has no frame reports with durations.
    """
    frames, tracked = list[recording.ReportedFrame](), Tracked()
    for recorded in recording.read_messages(path):
        type_name, log_time_ns = recorded.type_name, recorded.log_time_ns
        if type_name not in (FRAME_REPORT, TRACKS):
            continue
        message = recording.deserialized(path, recorded)
        if type_name == FRAME_REPORT:
            frames.append(recording.ReportedFrame.of_message(message, log_time_ns))
        elif not message.coasted:
            frame = message.camera, message.sequence, recording.nanoseconds(message.header.stamp)
            tracked[frame] = log_time_ns, len(message.tracks)
    if not frames:
        needed = "record perception/frame_report, and perception/tracks where there are tracks"
        raise recording.RecordingError(f"recording {path} has no frame reports; {needed}")
    if all(frame.ingested_ns in (0, frame.capture_ns) for frame in frames):
        why = "in a lockstep replay time stands still; use --mode realtime, or perception demo"
        raise recording.RecordingError(f"recording {path} has no durations: {why}")
    return frames, tracked


def trace_of(frames: Iterable[Any], tracked: Tracked) -> str:
    """Draw frames and tracks as a trace.

    A process does one thing at a time, so a stage starts only when its process is free. How long
    the frame waited for that is one of the stage's facts.

    Args:
        frames: objects with the attributes of `FrameReport`, of any number of cameras.
        tracked: tracks of these frames.

    Returns:
        A file for ui.perfetto.dev, in the time of CLOCK_MONOTONIC.
    """
    trace = Trace()
    by_camera: dict[str, list[Any]] = {}
    for frame in frames:
        by_camera.setdefault(as_text(frame.camera), []).append(frame)
    roots = {name: trace.process(name) for name in (*PROCESSES, TRACKER)}
    flow = 0
    for camera, own in by_camera.items():
        own.sort(key=_began_ns)
        lanes = {name: trace.lane(root, camera) for name, root in roots.items()}
        left = f"{camera}: budget left when published"
        free_ns = dict.fromkeys(lanes, 0)
        changes: list[tuple[int, int]] = []
        for frame in own:
            flow += 1
            _frame(trace, frame, lanes, free_ns, flow)
            ended_ns = max(getattr(frame, name) for name in STAMPS)
            if frame.ingested_ns:
                changes += [(frame.ingested_ns, 1), (ended_ns, -1)]
            if frame.published_ns:
                left_ms = (frame.deadline_ns - frame.published_ns) / 1e6
                trace.count(roots["detector_node"], left, frame.published_ns, "ms", left_ms)
            recorded = tracked.get((camera, frame.sequence, frame.stamp_ns))
            # Only a valid stamp relates the recorder's clock to ours.
            if recorded is None or frame.clock_suspect:
                continue
            at_ns = frame.capture_ns + recorded[0] - frame.stamp_ns
            begin_ns = max(frame.published_ns, free_ns[TRACKER])
            # The log times of a replay are those of its drive, before anything was published.
            if frame.published_ns and at_ns > begin_ns:
                free_ns[TRACKER] = at_ns
                facts = {"tracks": recorded[1]}
                trace.slice(lanes[TRACKER], "track", begin_ns, at_ns, facts, flow)
        count = 0
        for at_ns, change in sorted(changes):
            count += change
            flight = f"{camera}: in flight"
            trace.count(roots["preprocess_node"], flight, at_ns, "frames", count)
    return trace.text()


def _frame(
    trace: Trace, frame: Any, lanes: dict[str, Lane], free_ns: dict[str, int], flow: int
) -> None:
    """Add the slices of one frame, and its status if it was not published in time."""
    status = FrameStatus(frame.status)
    facts: Facts = {
        "frame": int(frame.sequence),
        "status": status.name,
        "reason": as_text(frame.reason),
        "model": as_text(frame.model),
        "detections": int(frame.detections),
    }
    place, last_ns = "camera", _began_ns(frame)
    stamps = iter(zip(STAMPS[:-1], STAMPS[1:], strict=True))
    for process, stages in PROCESSES.items():
        for stage in stages:
            begin_ns, end_ns = (getattr(frame, name) for name in next(stamps))
            if not (begin_ns and end_ns):
                continue
            if stage == "postprocess":
                end_ns -= sum(map(_cost_ns, frame.looks))
            starts_ns = min(max(begin_ns, free_ns[process]), end_ns)
            shown = {**facts, "waited_ms": round((starts_ns - begin_ns) / 1e6, 3)}
            trace.slice(lanes[process], stage, starts_ns, end_ns, shown, flow)
            for look in frame.looks if stage == "postprocess" else ():
                shown = {**facts, "x_offset": look.x_offset, "y_offset": look.y_offset}
                begin_ns, end_ns = end_ns, end_ns + _cost_ns(look)
                trace.slice(lanes[process], "second look", begin_ns, end_ns, shown, flow)
            free_ns[process] = max(free_ns[process], end_ns)
            place, last_ns = process, max(last_ns, end_ns)
    if status not in PUBLISHED or status == FrameStatus.LATE:
        trace.instant(lanes[place], status.name, last_ns, facts)


def _cost_ns(look: Any) -> int:
    return round(float(look.cost_ms) * 1e6)


def _began_ns(frame: Any) -> int:
    """The first known time of a frame: its arrival, if the record of its capture was lost."""
    return int(frame.capture_ns or frame.ingested_ns)
