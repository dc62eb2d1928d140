"""The charts of a drive: latency, stages, objects and health."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.budget import STAGES
from perception_nodes.core.frame import FrameStatus, latency_ms, stage_durations_ms
from perception_nodes.core.health import HealthMode
from perception_nodes.core.missed import badness
from perception_nodes.core.statistics import LATENCY_RANKS, latency_percentiles
from perception_nodes.report.annotate import class_colour
from perception_nodes.report.chart import Axis, Chart, LatencyAxis, add_health, seconds_of
from perception_nodes.report.palette import STAGE_COLOURS
from perception_nodes.report.recording import Recording, ReportedFrame

MAX_POINTS = 1500
"""A timeline shows at most so many frames; each stands for a group, as its worst frame."""
LATENCY_COLOUR = "#4263eb"
BINS = 80
RAILS_ACROSS = 0.18
"""Distance between the rails of a horizontal axis, as a share of its highest value."""
GAP_INTERVALS = 4
"""A timeline is empty between frames that are more than so many median intervals apart."""
TIME_BINS, BIN_FRAMES = 120, 2
"""Objects are counted in at most so many equal parts of the drive. Each has so many frames on
average, so that uneven intervals between frames leave no part empty.
"""
SECONDS = "seconds since the first frame"


def latency_axis(latencies_ms: Sequence[float | None], deadline_ms: float) -> LatencyAxis:
    """The axis of a timeline; it ends before a stall flattens everything else."""
    slowest = max((value for value in latencies_ms if value is not None), default=0.0)
    return LatencyAxis(max(1.25 * deadline_ms, min(1.05 * slowest, 4 * deadline_ms)))


def histogram(latencies: Sequence[float | None], deadline_ms: float) -> Chart:
    """How often each latency in ms occurred, None for no result, against the deadline."""
    values = np.array([value for value in latencies if value is not None])
    without = len(latencies) - len(values)
    ranks = latency_percentiles(values, LATENCY_RANKS, without)
    # An axis up to the slowest frame would show all others as one bar.
    axis = LatencyAxis(max(2 * deadline_ms, ranks["p99"] or 0.0), RAILS_ACROSS)
    counts, edges = np.histogram(values[values <= axis.top], BINS, (0, axis.top))
    chart = Chart(axis.axis("capture to publish, ms"), Axis("frames"), 280)
    half = (axis.without - axis.slower) / 4
    ends = [place + side for place in (axis.slower, axis.without) for side in (-half, half)]
    y = [*counts.tolist(), None, int((values > axis.top).sum()), None, without, without]
    chart.add([*edges.tolist(), *ends], y, "frames", LATENCY_COLOUR, "stack")
    chart.deadline(deadline_ms, x=deadline_ms)
    for name, value in ranks.items() if latencies else ():
        if name != "max":
            said = f"{value:.1f}" if value is not None else ""
            chart.line(f"{name.replace('_', '.')} {said}".strip(), x=axis.place(value))
    return chart


def timeline(reports: Sequence[ReportedFrame], deadline_ms: float) -> Chart:
    """Stages of every frame, stacked, against the deadline; frames that missed it are marked."""
    shown = worst_of_groups(reports, MAX_POINTS)
    seconds = seconds_of([report.log_time_ns for report in shown], _start_ns(reports))
    stages = [stage_durations_ms(report) for report in shown]
    latencies = [latency_ms(report) for report in shown]
    axis = latency_axis(latencies, deadline_ms)
    chart = Chart(drive_axis(reports), axis.axis("ms"), 340)
    places = _with_gaps(seconds)
    x = [at_s for at_s, _ in places]
    for stage, colour in zip(STAGES, STAGE_COLOURS, strict=True):
        took = [None if i is None else round(stages[i].get(stage, 0.0), 3) for _, i in places]
        chart.add(x, took, stage, colour, "stack")
    marked = [
        i
        for i, report in enumerate(shown)
        if report.status != FrameStatus.OK or axis.place(latencies[i]) > axis.top
    ]
    axis.add_frames(chart, [seconds[i] for i in marked], [shown[i] for i in marked], 8)
    chart.deadline(deadline_ms, y=deadline_ms)
    return chart


def health(recording: Recording) -> Chart:
    """The health mode over the drive."""
    times = [change.log_time_ns for change in recording.health]
    end_ns = max([report.log_time_ns for report in recording.reports] or times)
    start_ns = _start_ns(recording.reports) or times[0]
    rails = [(float(place), mode.name) for place, mode in enumerate(reversed(HealthMode))]
    chart = Chart(drive_axis(recording.reports), Axis("", (-0.5, 3.5), -1.0, rails), 200)
    y = {mode: float(place) for place, mode in enumerate(reversed(HealthMode))}
    add_health(chart, recording.health, start_ns, end_ns, y.__getitem__)
    return chart


def classes(recording: Recording) -> Chart:
    """How many objects of each class a frame had, over the drive; the totals in the legend."""
    start_ns = _start_ns(recording.reports)
    end_ns = max((report.log_time_ns for report in recording.reports), default=0)
    bins = min(TIME_BINS, max(len(recording.reports) // BIN_FRAMES, 1))
    width_ns = (end_ns - start_ns) // bins + 1
    frames = np.zeros(bins)
    counts: dict[str, NDArray[np.float64]] = {}
    for report in recording.reports:
        place = (report.log_time_ns - start_ns) // width_ns
        frames[place] += 1
        found = recording.found(report)
        for label in found.labels if found else ():
            counts.setdefault(label, np.zeros(bins))[place] += 1
    seconds = (np.arange(bins + 1) * width_ns / 1e9).round(4).tolist()
    chart = Chart(drive_axis(recording.reports), Axis("objects a frame"), 300)
    for label, count in sorted(counts.items(), key=lambda item: -item[1].sum()):
        mean = [round(n / of, 2) if of else None for n, of in zip(count, frames, strict=True)]
        name = f"{label} ({int(count.sum())})"
        chart.add(seconds, [*mean, mean[-1]], name, class_colour(label), "stack")
    return chart


def worst_of_groups(reports: Sequence[ReportedFrame], most: int) -> list[ReportedFrame]:
    """At most `most` reports: the worst one of each group of neighbours."""
    group = -(-len(reports) // most) or 1
    groups = (reports[start : start + group] for start in range(0, len(reports), group))
    return [max(some, key=badness) for some in groups]


def drive_axis(reports: Sequence[ReportedFrame]) -> Axis:
    """The axis of time, the same on all charts of a drive, that the player of its page shares."""
    seconds = [(report.log_time_ns - _start_ns(reports)) / 1e9 for report in reports]
    # The last frame lasts as long as the others.
    end_s = max(seconds, default=0.0) * (1 + 1 / max(len(seconds) - 1, 1))
    return Axis(SECONDS, (0.0, round(end_s, 3)) if end_s > 0 else None, is_drive=True)


def _start_ns(reports: Sequence[ReportedFrame]) -> int:
    return reports[0].log_time_ns if reports else 0


def _with_gaps(seconds: list[float]) -> list[tuple[float, int | None]]:
    """The times of frames with their indices, and times with None at which gaps begin.

    A frame is drawn until the next one, and for the median interval before a gap and at the end.
    """
    steps_s = np.diff(seconds)
    usual_s = float(np.median(steps_s)) if len(steps_s) else 1.0
    places: list[tuple[float, int | None]] = []
    for i, at_s in enumerate(seconds):
        places.append((at_s, i))
        if i + 1 == len(seconds):
            places.append((round(at_s + usual_s, 6), i))
        elif steps_s[i] > GAP_INTERVALS * usual_s:
            places.append((round(at_s + usual_s, 6), None))
    return places
