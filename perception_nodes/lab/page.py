"""The pages of the lab: what its templates are filled with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.missed import Missed
from perception_nodes.lab.deadline import HEAD, LOOKS, MEANINGS, REAL_TIME, SOAK, condition_rows
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.report import page
from perception_nodes.report.chart import Axis, Chart, LatencyAxis, add_health, seconds_of
from perception_nodes.report.palette import HEALTH_COLOURS
from perception_nodes.report.recording import Recording, RecordingError, read_recording
from perception_nodes.report.targets import targets

CHART_DEADLINES = 3
"""The axis of a scenario's latencies ends at this multiple of the deadline."""
COLOURS = dict(
    one.split()
    for one in "quiet #1f9d55, one_core #4263eb, all_cores #f2a900, slow_1.5 #fcc2d7, "
    "slow_2 #f06595, slow_3 #a61e4d, memory #e8590c, disk #0c8599, build #ae3ec9, "
    "second_graph #c92a2a".split(", ")
) | {SOAK: "#868e96"}
"""Colours of lines by condition. Where both were measured, real-time priority is solid; second
looks are dots."""
MAX_POINTS = 2000


def deadline_page(result: Mapping[str, Any]) -> str:
    """The page of a deadline measurement as HTML text.

    Args:
        result: of `DeadlineBench.run`.
    """
    tone, sentence = deadline_verdict(result)
    return page.render(
        "deadline.html.j2",
        heading=f"{result['machine']}; {result['model']} on {result['backend']}",
        tone=tone,
        verdict=sentence,
        chart=tail(result["conditions"], result["deadline_ms"]),
        head=[*HEAD],
        rows=condition_rows(result),
        meanings=MEANINGS,
        **result,
    )


def deadline_verdict(result: Mapping[str, Any]) -> tuple[str, str]:
    """The verdict: `good`, `fair` or `bad`, and a sentence in plain words."""
    conditions = result["conditions"]
    frames, silent, late = (
        sum(found[key] for found in conditions.values())
        for key in ("frames", "silent_misses", "in_time_and_arrived_late")
    )
    deadline, soak = f"{result['deadline_ms']:g} ms", result.get("soak", {"constant": True})
    if not all(found["frames"] for found in conditions.values()):
        return "bad", "Nothing can be said: no frame was sent."
    if silent:
        return "bad", f"{silent} of {frames} frames missed the deadline, and no report says so."
    if not soak["constant"]:
        if soak["state"] == "growing":
            return "bad", f"The graph grew in {soak['minutes']:g} minutes: it has a leak."
        return "bad", f"Whether the graph grows in {soak['minutes']:g} minutes: {soak['state']}."
    if not any(found["miss_rate"] for found in conditions.values()):
        if not late:
            return "good", f"All {frames} frames met the deadline of {deadline}."
        in_time = f"All {frames} frames were published within {deadline}"
        return "fair", f"{in_time}, but {late} arrived after that."
    shares = []
    for real_time, words in ((False, "without real-time priority"), (True, "with it")):
        chosen = [c for name, c in conditions.items() if name.endswith(REAL_TIME) == real_time]
        if chosen:
            counts = [c["frames"] for c in chosen]
            share = np.average([c["miss_rate"] for c in chosen], weights=counts)
            shares.append(f"{share:.2%} {words}")
    return "fair", (
        f"Of {frames} frames these missed the deadline of {deadline}: "
        f"{', '.join(shares)}. Each one is reported."
        + (f" {late} more were published in time, but arrived after it." if late else "")
    )


def tail(conditions: Mapping[str, Any], deadline_ms: float) -> Chart:
    """The complementary distribution of the latency: the share of frames that take longer.

    Frames without detections count as slower than all others: a condition's curve ends at their
    share.

    Args:
        conditions: `latencies_ms` in order and the number of `frames`, by condition.
        deadline_ms: the deadline.
    """
    every = [deadline_ms, *(ms for found in conditions.values() for ms in found["latencies_ms"])]
    chart = Chart(
        Axis("capture to detections, ms", (0.9 * min(every), 1.1 * max(every)), log=True),
        Axis("share of frames that take longer", log=True, percent=True),
        420,
    )
    for name, found in conditions.items():
        values = np.array(found["latencies_ms"])
        if not len(values):
            continue
        slower = (found["frames"] - 1 - np.arange(len(values))) / found["frames"]
        # A long run is thinned out towards the fast frames; every frame of the tail is drawn.
        ranks = len(values) - np.geomspace(1, len(values), min(MAX_POINTS, len(values)))
        drawn = np.unique(ranks.astype(int))
        drawn = drawn[slower[drawn] > 0]
        chart.add(
            values[drawn].tolist(),
            slower[drawn].tolist(),
            name.replace("_", " "),
            COLOURS[name.rpartition(": ")[2].split(",")[0]],
            "steps",
            dash=[1, 2] if LOOKS in name else [3, 3] if name + REAL_TIME in conditions else [],
        )
    chart.deadline(deadline_ms, x=deadline_ms)
    return chart


def acceptance_page(verdict: Mapping[str, Any], reports: Sequence[Any]) -> str:
    """The page of an acceptance as HTML text, to hand over.

    Args:
        verdict: of `Acceptance.run`.
        reports: those of the frames that are judged.
    """
    latencies_ms, count = verdict["latencies_ms"], verdict["frames"]["frames_in"]
    measured = {SOAK: {"latencies_ms": latencies_ms, "frames": count}}
    return page.render(
        "acceptance.html.j2",
        heading=f"{verdict['machine']}; perception_nodes {verdict['version']}; {verdict['made']}",
        tone="good" if verdict["fit"] else "bad",
        verdict=acceptance_sentence(verdict),
        chart=tail(measured, verdict["deadline_ms"]) if latencies_ms else "",
        targets=targets(verdict["frames"], verdict["deadline_ms"]),
        missed=Missed.of(reports, verdict["deadline_ms"]),
        **verdict,
    )


def acceptance_sentence(verdict: Mapping[str, Any]) -> str:
    """The verdict of an acceptance in words."""
    checks = verdict["checks"]
    if not (failed := [check["name"] for check in checks if not check["passed"]]):
        return f"Fit: all {len(checks)} checks passed in {verdict['minutes']:g} minutes."
    sentence = f"Not fit: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}."
    return f"{sentence} {verdict.get('busy', '')}".strip()


def scenarios_page(
    machine: str, verdicts: Sequence[ScenarioVerdict], folder: Path, not_begun: Sequence[str] = ()
) -> str:
    """The page of a run of scenarios as HTML text.

    Args:
        machine: the machine that the bench ran on.
        verdicts: of the scenarios that were begun.
        folder: holds their recordings.
        not_begun: names of scenarios whose turn did not come.
    """
    failed = sum(not verdict.passed for verdict in verdicts)
    count = len(verdicts) + len(not_begun)
    sentence = f"{len(verdicts) - failed} of {count} scenarios are as expected"
    if not_begun:
        sentence += f"; not begun: {', '.join(not_begun)}"
    played = [(one.scenario, one, _recording(one, folder)) for one in verdicts]
    return page.render(
        "scenarios.html.j2",
        heading=machine,
        tone="bad" if failed or not_begun else "good",
        verdict=sentence,
        verdicts=verdicts,
        charts={name: _chart(one, found) for name, one, found in played},
        missed={
            name: Missed.of(found.reports if one.sent else [], one.deadline_ms or DEADLINE_MS)
            for name, one, found in played
        },
        modes={mode.name: colour for mode, colour in HEALTH_COLOURS.items()},
    )


def _recording(verdict: ScenarioVerdict, folder: Path) -> Recording:
    """What a scenario's graph published; nothing without a run."""
    try:
        return read_recording(folder / f"{verdict.scenario}.mcap")
    except RecordingError:
        return Recording()


def _chart(verdict: ScenarioVerdict, recording: Recording) -> Chart | str:
    """Draw each frame's latency by status over the health mode; empty without a run."""
    reports, first_ns = recording.reports, verdict.first_ns
    if not (reports and verdict.sent):
        return ""
    axis = LatencyAxis(CHART_DEADLINES * verdict.deadline_ms)
    seconds_axis = Axis("seconds since the first frame")
    chart = Chart(seconds_axis, axis.axis("latency, ms", -0.1 * axis.top), 260)
    seconds = seconds_of([report.log_time_ns for report in reports], first_ns)
    axis.add_frames(chart, seconds, reports, 5)
    chart.deadline(verdict.deadline_ms, y=verdict.deadline_ms)
    for kind, begin_s, end_s in verdict.faults:
        chart.span(begin_s, end_s, kind)
    last_ns = max(report.log_time_ns for report in reports)
    add_health(chart, recording.health, first_ns, last_ns, lambda _: -0.05 * axis.top)
    return chart
