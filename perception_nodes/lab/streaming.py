"""`bench streaming`: how right what a planner holds is at each instant of a drive, by variant."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.markup import escape
from rich.table import Table

from perception_nodes.core.frame import FrameRecord, FrameRejected, latency_ms
from perception_nodes.core.statistics import summarize
from perception_nodes.drives.bag import open_drive
from perception_nodes.evaluation.accuracy import class_groups
from perception_nodes.evaluation.labels import LabelledSet
from perception_nodes.evaluation.streaming import held_at, staleness_ms
from perception_nodes.graph.config import DetectorSettings
from perception_nodes.graph.graph import RECORDED, Graph
from perception_nodes.graph.resolve import GraphSettings
from perception_nodes.graph.ros_arguments import NO_ROS_ARGUMENTS
from perception_nodes.graph.settings import refuse
from perception_nodes.lab import bench
from perception_nodes.lab.deadline import START_S
from perception_nodes.lab.resources import Sampler
from perception_nodes.lab.run import Run, check_written, execute
from perception_nodes.networks.model import load_model
from perception_nodes.replay.accuracy import accuracy, images_by_frame
from perception_nodes.report import recording as recorded
from perception_nodes.report.account import Frame, account
from perception_nodes.report.figures import figure_table
from perception_nodes.report.page import render, shown
from perception_nodes.system.processes import machine
from perception_nodes.transport.cdr_reader import read_stamp

USUAL = ("model:=open-n", "model:=open-n second_look:=auto", "model:=auto")
"""Variants that are compared if none is named."""
MEANINGS = (
    "AP50: of what is held at the instant of each frame, against the truth of that instant",
    "own: of the same detections against their own frames, as if they had taken no time",
    "stale: how old the frame is whose detections are held, once there are any",
    f"latency: from capture to publication, {bench.WITHOUT_DETECTIONS}",
    "looks: second looks in all",
)
"""What the figures of a variant mean."""
HEAD = "AP50, own, stale p50 ms, stale p99 ms, latency p99 ms, looks, missed, silently".split(", ")
UNREPORTED = recorded.ReportedFrame.of_record(FrameRecord(), 0)


def run_bench(
    bag: Path,
    topic: str,
    truth: LabelledSet,
    variants: Iterable[tuple[str, Mapping[str, Any]]],
    resolved: Callable[[Graph, dict[str, Any]], GraphSettings],
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Play a drive to each variant of the graph, at its own pace; see `bench streaming --help`.

    Args:
        bag: the drive.
        topic: its image topic; empty to find it by type.
        truth: labels of its frames.
        variants: title and parameters of each graph; one may be there several times.
        resolved: returns the settings of a graph with parameters; it may measure some.
        say: receives lines of progress.
        progress: called with the seconds done and their total.

    Returns:
        The JSON result.

    Raises:
        BagError, DataError, SettingsError, ModelError: unusable input.
        GraphFailure: a process of the graph ended unexpectedly.
        KeyboardInterrupt: interrupted by the user.
    """
    plan, found, notes = [], [], dict[str, None]()
    with open_drive(bag, topic) as drive, TemporaryDirectory() as folder:
        say(f"looking for the frames of {bag} that {truth.name} labels")
        stamps_ns = {}
        for frame in drive.frames():
            stamps_ns[frame.index] = 0  # as if it had none
            with suppress(FrameRejected):
                stamps_ns[frame.index] = read_stamp(frame.data)
        # Errors are better told before the drive is played.
        images_by_frame(truth, drive, stamps_ns)
        sent, recording, log = (Path(folder, name) for name in ("sent", "got.mcap", "log"))
        own = {"bag": str(bag.resolve()), "topic": drive.topic, "listeners": 1}
        own |= {"recording": str(recording), "sent_file": str(sent), "live": False}
        for title, values in variants:
            refuse(values, {*own, "rate"})
            settings = resolved(RECORDED, {"source": "shm", **values, **own})
            detector = settings.of(DetectorSettings)
            model = load_model(detector.model, detector.model_key)
            class_groups(model, truth)
            plan.append((title, settings, model))
        part_s = START_S + drive.duration_ns / 1e9
        for number, (title, settings, model) in enumerate(plan):

            def show(elapsed_s: float, before_s: float = number * part_s) -> None:
                at_s = before_s + min(elapsed_s, part_s)
                progress(int(at_s), round(len(plan) * part_s))

            show(0)
            run, specs = Run(), RECORDED.processes(settings, NO_ROS_ARGUMENTS)
            execute(run, specs, log, [Sampler([], show)])
            check_written(sent, recording)
            run.read_sent(sent)
            run.read(recording)
            objects = recorded.read_recording(recording).detections
            sent.unlink()
            recording.unlink()
            score = partial(accuracy, model, drive, labels=truth, labels_topic="")
            measured = figures(run, objects, stamps_ns, score)
            notes |= dict.fromkeys([*measured["held"]["notes"], *run.warnings])
            about = {name: settings.parameters[name] for name in ("backend", "deadline_ms")}
            found.append({"variant": title, "model": model.name, **about, **measured})
    about = {"machine": machine(), "drive": str(bag), "truth": truth.name}
    return {**about, "notes": [*notes], "variants": found}


def figures(
    run: Run,
    objects: Mapping[int, recorded.FrameDetections],
    stamps_ns: Mapping[int, int],
    score: Callable[[recorded.Recording], dict[str, Any]],
) -> dict[str, Any]:
    """The figures of a variant, as JSON holds them.

    Args:
        run: what was sent, reported and received.
        objects: what was received, by the stamp that the player gave to the frame.
        stamps_ns: recorded stamp of each frame, by its number in the drive.
        score: the accuracy of detections, by number, against the truth.
    """
    told = account(run)
    sent_ns = [frame.stamp_ns for frame in told.frames]
    times_ns = ((frame.stamp_ns, _published_ns(frame)) for frame in told.frames)
    held_ns = held_at(sent_ns, {stamp_ns: at for stamp_ns, at in times_ns if at is not None})

    def scored(shown_ns: Iterable[int | None]) -> dict[str, Any]:
        judged = recorded.Recording(by_number=True)
        for number, frame, stamp_ns in zip(run.numbers, told.frames, shown_ns, strict=True):
            place = {"sequence": number, "stamp_ns": stamps_ns[number]}
            judged.reports.append(replace(frame.report or UNREPORTED, **place))
            if stamp_ns is not None and stamp_ns in objects:
                judged.detections[number] = objects[stamp_ns]
        return score(judged)

    return {
        "held": scored(held_ns),
        "own": scored(sent_ns),
        "staleness_ms": staleness_ms(sent_ns, held_ns),
        "nothing_held": held_ns.count(None),
        "looks": sum(len(one.looks) for one in run.reports),
        "miss_rate": told.miss_rate,
        "silent_misses": told.silent,
        "reported": summarize(run.reports),
    }


def rows_of(result: Mapping[str, Any]) -> list[list[str]]:
    """The figures of the variants as rows of a table, behind a first column with their names."""
    rows = []
    for one in result["variants"]:
        averages = [shown(one[part]["map50"], "{:.3f}") for part in ("held", "own")]
        times = bench.latency_cells(one["staleness_ms"], ("p50", "p99"), "{:.1f}")
        times += bench.latency_cells(one["reported"]["latency_ms"], ("p99",))
        counts = [one["looks"], shown(one["miss_rate"], "{:.2%}"), one["silent_misses"]]
        rows.append([one["variant"], *averages, *times, *map(str, counts)])
    return rows


def result_table(result: Mapping[str, Any]) -> Table:
    """The result as a table for the terminal."""
    title = escape(f"{result['drive']} at its own pace, against {result['truth']}")
    table = figure_table(["variant"], HEAD, title)
    for row in rows_of(result):
        table.add_row(*map(escape, row))
    table.caption = escape("\n".join((*MEANINGS, *result["notes"])))
    return table


def result_page(result: Mapping[str, Any]) -> str:
    """Render what was measured as one page."""
    return render("streaming.html.j2", head=HEAD, rows=rows_of(result), meanings=MEANINGS, **result)


def _published_ns(frame: Frame) -> int | None:
    """When detections that arrived were published, on the axis of the stamps.

    The monitor has a low priority: a message reaches it later than it reaches a planner.
    """
    took_ms = latency_ms(frame.report or UNREPORTED)
    if took_ms is None or frame.arrived_ns is None:
        return frame.arrived_ns
    return frame.stamp_ns + round(1e6 * took_ms)
