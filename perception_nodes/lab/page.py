"""The pages of the lab: one template, filled with parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from perception_nodes.lab.bench import WITHOUT_DETECTIONS
from perception_nodes.lab.deadline import (
    ARRIVED_LATE,
    BY_HOST,
    HEAD,
    REAL_TIME,
    SMALLER,
    SOAK,
    condition_rows,
)
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.report import page
from perception_nodes.report.chart import (
    HEALTH_COLOURS,
    Axis,
    Chart,
    LatencyAxis,
    add_health,
    seconds_of,
)
from perception_nodes.report.page import NO_VALUE, shown
from perception_nodes.report.recording import Recording, RecordingError, read_recording

CHART_DEADLINES = 3
"""The axis of a scenario's latencies ends at this multiple of the deadline."""
COLOURS = {
    "quiet": "#1f9d55",
    "one_core": "#4263eb",
    "all_cores": "#f2a900",
    "memory": "#e8590c",
    "disk": "#0c8599",
    "build": "#ae3ec9",
    "second_graph": "#c92a2a",
    SOAK: "#868e96",
}
"""By condition; dashed without real-time priority where both were measured."""
MAX_POINTS = 2000
TAIL = "Share of frames that take longer"
DEADLINE_FOOTER = (
    "Latency is from the shutter to the arrival of the detections in another process. "
    f"{WITHOUT_DETECTIONS}; silently: no report says that the frame was missed; {SMALLER}; "
    f"{BY_HOST}; {ARRIVED_LATE}."
)
ACCEPTANCE_FOOTER = (
    "Latency is from capture to publish, by the frame reports; a frame without detections counts "
    "as slower than all others. The verdict is about this computer, this version, this model and "
    "these parameters. failover/report.html shows each failover on a time line."
)
SCENARIOS_FOOTER = (
    "Latency is from the frame's stamp to the publishing of its detections, by the unit's frame "
    "reports. Grey: while a fault lasts. The line at the bottom of a chart is the health mode: "
)


@dataclass
class Part:
    """A section of a page.

    Attributes:
        title: heading.
        verdict: `pass` or `fail` behind the heading.
        text: paragraph below it.
        problems: lines above the chart.
        chart: chart.
        tables: head, rows, and the first column of numbers of each.
        notes: lines below.
        anchor: name for links.
    """

    title: str = ""
    verdict: str = ""
    text: str = ""
    problems: Sequence[str] = ()
    chart: Chart | str = ""
    tables: Sequence[tuple[Sequence[str], Sequence[Sequence[Any]], int]] = ()
    notes: Sequence[str] = ()
    anchor: str = ""


def _render(verdict: tuple[str, str], parts: Sequence[Part], **texts: str) -> str:
    tone, sentence = verdict
    return page.render("lab.html.j2", tone=tone, verdict=sentence, parts=parts, **texts)


def deadline_page(result: Mapping[str, Any]) -> str:
    """The page of a deadline measurement as HTML text.

    Args:
        result: of `DeadlineBench.run`.
    """
    statuses = [
        [name, ", ".join(f"{status} {n}" for status, n in found["status"].items() if n)]
        for name, found in result["conditions"].items()
    ]
    parts = [Part(TAIL, chart=tail(result["conditions"], result["deadline_ms"]))]
    tables = [(["in ms", *HEAD], condition_rows(result), 1), (["", "statuses"], statuses, 2)]
    parts.append(Part("By condition", tables=tables))
    if soak := result.get("soak"):
        grown = [
            [name, f"{mb:+.1f} MB", f"{soak['descriptor_growth'][name]:+.0f}"]
            for name, mb in soak["memory_growth_mb"].items()
        ]
        grown.append(["shared memory", f"{soak['shared_memory_growth_mb']:+.1f} MB", ""])
        title = f"{soak['minutes']:g} minutes: {soak['state']}"
        parts.append(Part(title, tables=[(["process", "memory", "descriptors"], grown, 1)]))
    heading = f"{result['machine']}; {result['model']} on {result['backend']}"
    texts = {"title": "The tail of the latency", "heading": heading, "footer": DEADLINE_FOOTER}
    return _render(deadline_verdict(result), parts, **texts)


def deadline_verdict(result: Mapping[str, Any]) -> tuple[str, str]:
    """How it went: `good`, `fair` or `bad`, and a sentence in plain words."""
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
        return "fair", (
            f"All {frames} frames were published within {deadline}, but {late} arrived after that."
        )
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
            COLOURS[name.removesuffix(REAL_TIME)],
            "steps",
            dash=[3, 3] if name + REAL_TIME in conditions else [],
        )
    chart.deadline(deadline_ms, x=deadline_ms)
    return chart


def acceptance_page(verdict: Mapping[str, Any]) -> str:
    """The page of an acceptance as HTML text, to hand over.

    Args:
        verdict: of `Acceptance.run`.
    """
    latencies_ms, frames, model = verdict["latencies_ms"], verdict["frames"], verdict["model"]
    rows = []
    for check in verdict["checks"]:
        found = "; ".join((check["found"], *check["notes"]))
        rows.append([check["name"], _word(check["passed"]), found, check["limit"]])
    parts = [Part("Checks", tables=[(["check", "", "found", "limit"], rows, 4)])]
    if latencies_ms:
        measured = {SOAK: {"latencies_ms": latencies_ms, "frames": frames["frames_in"]}}
        parts.append(Part(TAIL, chart=tail(measured, verdict["deadline_ms"])))
    stages = [
        [stage, *(shown(took[rank], "{:.2f}") for rank in ("p50", "p99"))]
        for stage, took in frames["stages_ms"].items()
    ]
    tables = [(["stage", "p50 ms", "p99 ms"], stages, 1)]
    tables.append((["status", "frames"], [*frames["status"].items()], 1))
    if frames["failures"]:
        tables.append((["reason of FAILED", "frames"], [*frames["failures"].items()], 1))
    parts.append(Part("Frames", tables=tables))
    text = f"Model {model['name']}, sha256 {model['sha256']}; licence: {model['license']}"
    table = (["parameter", "value"], [*verdict["parameters"].items()], 2)
    parts.append(Part("What was accepted", text=text, tables=[table]))
    heading = f"{verdict['machine']}; perception_nodes {verdict['version']}; {verdict['made']}"
    how = "good" if verdict["fit"] else "bad", acceptance_sentence(verdict)
    texts = {"title": "Is this computer fit?", "heading": heading, "footer": ACCEPTANCE_FOOTER}
    return _render(how, parts, **texts)


def acceptance_sentence(verdict: Mapping[str, Any]) -> str:
    """The verdict of an acceptance in words."""
    checks = verdict["checks"]
    failed = [check["name"] for check in checks if not check["passed"]]
    if not failed:
        return f"Fit: all {len(checks)} checks passed in {verdict['minutes']:g} minutes."
    return f"Not fit: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}."


def scenarios_page(
    machine: str, verdicts: Sequence[ScenarioVerdict], folder: Path, not_begun: Sequence[str] = ()
) -> str:
    """The page of a run of scenarios as HTML text.

    Args:
        machine: that the bench ran on.
        verdicts: of the scenarios that were begun.
        folder: holds their recordings.
        not_begun: names of scenarios whose turn did not come.
    """
    failed = sum(not verdict.passed for verdict in verdicts)
    count = len(verdicts) + len(not_begun)
    sentence = f"{len(verdicts) - failed} of {count} scenarios are as expected"
    if not_begun:
        sentence += f"; not begun: {', '.join(not_begun)}"
    rows = []
    for one in verdicts:
        link = Markup('<a href="#{0}">{0}</a>').format(one.scenario)
        worst = NO_VALUE if one.worst is None else one.worst.name
        in_time = None if one.miss_rate is None else 1 - one.miss_rate
        times = (shown(ms, "{:.0f} ms") for ms in (one.detections_ms, one.recovered_ms))
        row = [link, _word(one.passed), worst, shown(one.detected_ms, "{:.0f} ms")]
        rows.append([*row, shown(in_time, "{:.1%}"), shown(one.agreement, "{:.0%}"), *times])
    head = ["scenario", "verdict", "worst mode", "detected in", "in time", "agreement"]
    table = ([*head, "detections in", "recovered in"], rows, 3)
    parts = [Part(tables=[table]), *(_scenario(verdict, folder) for verdict in verdicts)]
    colours = Markup("").join(
        Markup('<i class="mode" style="background:{}"></i>{}').format(colour, mode.name)
        for mode, colour in HEALTH_COLOURS.items()
    )
    how = "bad" if failed or not_begun else "good", sentence
    footer = SCENARIOS_FOOTER + colours
    return _render(how, parts, title="Hardware in the loop", heading=machine, footer=footer)


def _word(passed: bool) -> Markup:
    return Markup('<b class="{0}">{0}</b>').format("pass" if passed else "fail")


def _scenario(verdict: ScenarioVerdict, folder: Path) -> Part:
    """What the page says of a scenario."""
    try:
        recording = read_recording(folder / f"{verdict.scenario}.mcap")
    except RecordingError:
        recording = Recording()  # it was not run
    facts = []
    if verdict.sent:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(verdict.statuses.items()))
        facts.append(f"{verdict.sent} frames sent: {counts}; {verdict.lost_silently} silently lost")
    if verdict.while_down:
        facts.append(f"{verdict.while_down} frames while the unit was down")
    if verdict.detected_as:
        facts.append(f"it said: {verdict.detected_as}")
    if verdict.round_trip_ms is not None:
        median_ms, tail_ms = verdict.round_trip_ms
        facts.append(
            f"from the frame's stamp to its detections, both by the bench's clock: "
            f"p50 {median_ms:.1f} ms, p99 {tail_ms:.1f} ms"
        )
    if verdict.clock is not None:
        facts.append(
            f"the unit's clock is {verdict.clock.offset_ms:+.3f} ms from the bench's, "
            f"to {verdict.clock.error_ms:.3f} ms"
        )
    return Part(
        f"{verdict.scenario}: ",
        verdict="pass" if verdict.passed else "fail",
        text=verdict.title,
        problems=verdict.problems,
        chart=_chart(verdict, recording) if recording.reports and verdict.sent else "",
        notes=facts + verdict.notes,
        anchor=verdict.scenario,
    )


def _chart(verdict: ScenarioVerdict, recording: Recording) -> Chart:
    """Latency of every frame, coloured by its status, over the health mode."""
    axis = LatencyAxis(CHART_DEADLINES * verdict.deadline_ms)
    chart = Chart(
        Axis("seconds since the first frame"), axis.axis("latency, ms", -0.1 * axis.top), 260
    )
    reports, first_ns = recording.reports, verdict.first_ns
    seconds = seconds_of([report.log_time_ns for report in reports], first_ns)
    axis.add_frames(chart, seconds, reports, 5)
    chart.deadline(verdict.deadline_ms, y=verdict.deadline_ms)
    for kind, begin_s, end_s in verdict.faults:
        chart.span(begin_s, end_s, kind)
    last_ns = max(report.log_time_ns for report in reports)
    add_health(chart, recording.health, first_ns, last_ns, lambda _: -0.05 * axis.top)
    return chart
