"""Two runs of a drive side by side: figures, latency, and the frames whose objects differ."""

import json
from collections import Counter
from filecmp import cmp
from itertools import tee
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich import box, markup
from rich.table import Table

from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.drives.schemas import COMPRESSED_IMAGE, typestore
from perception_nodes.replay.outputs import ANNOTATED_TOPIC, OFFLINE, RECORDING_FILE, SUMMARY_FILE
from perception_nodes.report import changes, page
from perception_nodes.report import recording as recorded
from perception_nodes.report.annotate import decoded
from perception_nodes.report.chart import Axis, Chart, LatencyAxis
from perception_nodes.report.charts import RAILS_ACROSS
from perception_nodes.report.chosen_frames import ChosenFrame
from perception_nodes.report.page import NO_VALUE
from perception_nodes.report.timing import read_work_ms
from perception_nodes.system.files import write_whole

COLOURS = ("#4263eb", "#e8590c")
MAX_PICTURES = 8
MAX_LETTERS = 20
"""Longer figures, such as hashes, are cut off, so that both runs fit side by side."""
SETTINGS = {"bag": ("bag",), "topic": ("topic",), "score threshold": ("score_threshold",)}
"""Settings that two runs must share for their objects to be comparable."""
FIGURES = {
    **SETTINGS,
    "frames": ("frames_in",),
    "objects": ("detections",),
    "failed frames": ("status", "FAILED"),
    "lost frames of the bag": ("lost_in_bag",),
    "missed the deadline": ("miss_rate",),
    "frames with work over the deadline": ("over_deadline",),
    "work or latency p50, ms": ("latency_ms", "p50"),
    "p99, ms": ("latency_ms", "p99"),
    "p99.9, ms": ("latency_ms", "p99_9"),
    "inference p50, ms": ("stages_ms", "inference", "p50"),
    "frames a second": ("speed", "frames_per_s"),
    "mAP50-95": ("accuracy", "map50_95"),
    "model": ("model",),
    "its hash": ("model_sha256",),
    "backend": ("backend",),
    "runtime": ("runtime",),
    "mode": ("mode",),
}
"""The figures that are compared, and their place in a summary."""


def compare_runs(first: Path, second: Path, out: Path) -> dict[str, Any]:
    """Write `compare.html` and `compare.json`.

    Objects are compared as with a golden; the first run takes the golden's place.

    Returns:
        The content of `compare.json`.

    Raises:
        RecordingError: a folder is not that of a run.
        SettingsError: `out` cannot be written to.
    """
    folders = (first, second)
    summaries = [_summary(folder) for folder in folders]
    files = first / RECORDING_FILE, second / RECORDING_FILE
    recordings = [recorded.read_recording(file, by_number=True) for file in files]
    threshold = max(_number(summary, "score_threshold", 0.0) for summary in summaries)
    deadline_ms = _number(summaries[1], "deadline_ms", DEADLINE_MS)
    before = changes.frames_of(recordings[0])
    comparison = changes.Comparison(before, threshold, changes.Tolerance())
    times: dict[int, changes.FrameTime] = {}
    each = changes.numbered(report.log_time_ns for report in recordings[1].reports)
    for time, report in zip(each, recordings[1].reports, strict=True):
        comparison.frame(report.sequence, time[0], changes.objects_of(recordings[1].found(report)))
        times[report.sequence] = time
    comparison.finish()
    changed: dict[changes.FrameTime, list[str]] = {}
    for change in comparison.changes or comparison.doubtful:
        if change.kind not in (changes.ChangeKind.FRAME_NEW, changes.ChangeKind.FRAME_MISSING):
            lines = changed.setdefault(times[change.frame], [])
            lines.append(str(change).partition(": ")[2] if lines else str(change))
    result: dict[str, Any] = {
        "runs": [str(folder) for folder in folders],
        "figures": {
            name: [_figure_of(summary, keys) for summary in summaries]
            for name, keys in FIGURES.items()
        },
        "identical_messages": cmp(*files, shallow=False),
        "objects": comparison.as_json(),
    }
    verdict, is_same = _verdict(result)
    work_ms = [read_work_ms(folder) for folder in folders]
    frames = [summary["frames_in"] for summary in summaries]
    worst = sorted(changed, key=lambda time: -len(changed[time]))[:MAX_PICTURES]
    text = page.render(
        "comparison.html.j2",
        heading=f"{first} and {second}",
        verdict=verdict,
        tone="good" if is_same else "fair",
        runs=result["runs"],
        figures=_figures(result),
        latency=_latency(work_ms, frames, folders, deadline_ms),
        classes=_classes(recordings),
        frames=_pairs(folders, worst, changed),
        lines=comparison.lines(),
    )
    write_whole(out / "compare.html", text)
    write_whole(out / "compare.json", json.dumps(result, indent=2) + "\n")
    return result


def comparison_table(result: dict[str, Any]) -> Table:
    """The figures for the terminal."""
    table = Table("", *map(markup.escape, result["runs"]), box=box.SIMPLE_HEAD)
    for name, values in result["figures"].items():
        if any(value is not None for value in values):
            table.add_row(name, *(markup.escape(_shown(value)) for value in values))
    table.add_row("", markup.escape(_verdict(result)[0]), "")
    return table


def _summary(folder: Path) -> dict[str, Any]:
    file = folder / SUMMARY_FILE
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
        summary["frames_in"]
        if (path := summary.get("path", OFFLINE)) != OFFLINE:
            raise ValueError(f"it is of {path}, where frames have other times each run")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise recorded.RecordingError(
            f"{folder} is not the folder of one run: {file.name}: {error}; name a folder that "
            "`perception replay --out` has written"
        ) from error
    return dict(summary)


def _number(summary: dict[str, Any], key: str, default: float) -> float:
    value = summary.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        remedy = "replay the drive again"
        raise recorded.RecordingError(f"summary.json: {key} {value!r} is no number; {remedy}")
    return float(value)


def _figure_of(summary: dict[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = summary
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _verdict(result: dict[str, Any]) -> tuple[str, bool]:
    """What the comparison shows, and whether the runs are the same."""
    figures, objects = result["figures"], result["objects"]
    figures = {**figures, "bag": [Path(str(bag)).name for bag in figures["bag"]]}
    sentences = [
        f"The runs differ in {name}: {' and '.join(map(str, result['figures'][name]))}."
        for name in SETTINGS
        if figures[name][0] != figures[name][1]
    ]
    is_same = not (objects["changes"] or objects["doubtful"] or sentences)
    if result["identical_messages"]:
        return " ".join([*sentences, "Both runs wrote the same messages, byte by byte."]), is_same
    sentence = "Both runs found the same objects"
    if objects["changes"]:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in objects["kinds"].items())
        frames = f"{objects['frames_changed']} of {objects['frames']} frames"
        sentence = f"Objects differ in {frames}. {kinds}"
    if objects["doubtful"]:
        near = page.counted(objects["doubtful"], "object")
        sentence += f", apart from {near} near the score threshold that one run has only"
    return " ".join([*sentences, f"{sentence}."]), is_same


def _figures(result: dict[str, Any]) -> list[list[str]]:
    return [
        [name, *map(_shown, values), _ratio(*values)]
        for name, values in result["figures"].items()
        if any(value is not None for value in values)
    ]


def _shown(value: Any) -> str:
    if value is None:
        return NO_VALUE
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 1]}…"


def _ratio(before: Any, after: Any) -> str:
    if before == after:
        return ""
    numbers = isinstance(before, int | float) and isinstance(after, int | float)
    if not numbers or not before:
        return "differs"
    return f"{after / before - 1:+.1%}"


def _latency(
    work_ms: list[list[float]], frames: list[int], folders: tuple[Path, Path], deadline_ms: float
) -> Chart:
    """The cumulative distribution of the work or latency of both runs.

    A curve ends at the share of the frames that left as detections.
    """
    every = [value for values in work_ms for value in values]
    slow = float(np.quantile(every, 0.99)) if every else 0.0
    axis = LatencyAxis(max(2 * deadline_ms, slow), RAILS_ACROSS)
    shares_axis = Axis("of the frames within", (0, 1), percent=True)
    chart = Chart(axis.axis("work or latency, ms"), shares_axis, 300)
    shares = np.linspace(0, 1, 401)
    for values, count, folder, colour in zip(work_ms, frames, folders, COLOURS, strict=True):
        if not values:
            continue
        places = np.array([axis.place(value) for value in np.quantile(values, shares)])
        x, last = np.unique(places[::-1], return_index=True)
        y = shares[::-1][last] * len(values) / count
        chart.add(x.tolist(), y.round(5).tolist(), str(folder), colour, "line")
    chart.deadline(deadline_ms, x=deadline_ms)
    return chart


def _classes(recordings: list[recorded.Recording]) -> list[list[Any]]:
    """Each class with its objects in both runs, and the change."""
    before, after = (
        Counter(label for found in recording.detections.values() for label in found.labels)
        for recording in recordings
    )
    return [
        [name, before[name], after[name], _ratio(before[name], after[name])]
        for name, _ in (before + after).most_common()
    ]


def _pairs(
    folders: tuple[Path, Path],
    times: list[changes.FrameTime],
    changed: dict[changes.FrameTime, list[str]],
) -> list[ChosenFrame]:
    """For each frame one picture with both runs side by side."""
    found: list[dict[changes.FrameTime, bytes]] = [{}, {}]
    for pictures, folder in zip(found, folders, strict=True) if times else ():
        every = recorded.read_messages(folder / RECORDING_FILE)
        messages, again = tee(one for one in every if one.topic == ANNOTATED_TOPIC)
        each = changes.numbered(message.log_time_ns for message in again)
        for message, time in zip(messages, each, strict=True):
            if time in times:
                image: Any = typestore().deserialize_cdr(message.data, COMPRESSED_IMAGE)
                pictures[time] = bytes(image.data)
    chosen = []
    for time in times:
        if all(time in pictures for pictures in found):
            caption = "; ".join(changed[time][:3])
            chosen.append(ChosenFrame(caption, _beside(*(pictures[time] for pictures in found))))
    return chosen


def _beside(first: bytes, second: bytes) -> bytes:
    left = decoded(first)
    right = cv2.resize(decoded(second), (left.shape[1], left.shape[0]))
    gap = np.full((left.shape[0], 6, 3), 255, np.uint8)
    return cv2.imencode(".jpg", np.hstack([left, gap, right]))[1].tobytes()
