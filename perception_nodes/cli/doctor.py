"""`perception doctor`: what this machine has, what it lacks, and the remedy."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from perception_nodes.backends.auto import AUTO
from perception_nodes.cli import options
from perception_nodes.cli.common import give, progress_bar, say
from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.evaluation.measured import THOROUGH_S, Row, best_of, known_rows, measured_rows
from perception_nodes.graph.config import DetectorSettings
from perception_nodes.graph.findings import examine, images
from perception_nodes.report.figures import figure_table
from perception_nodes.system.findings import Finding
from perception_nodes.system.threads import Thread, nodes, threads


def doctor(
    as_json: options.Json = False,
    show_threads: Annotated[bool, typer.Option("--threads")] = False,
    measure: bool = False,
    image_topic: str = "",
    image_transport: str = "raw",
) -> None:
    """Check what this machine has, and say how to get what it lacks.

    Exit status 1 if something that the pipeline needs is missing, or the images do not come.

    Options:
        show_threads: List the threads of running nodes instead.
        measure: Measure anew, for half a minute, how fast the networks are here; do it when nothing
            else runs. The graph's model:=auto goes by the latest measurement.
        image_topic: Listen to this topic too, and report whether images come.
        image_transport: Type of its images, as for `perception run`.

    Example: perception doctor --json

    Example: perception doctor --threads

    Example: perception doctor --measure

    Example: perception doctor --image-topic /cam/image_raw
    """
    if show_threads:
        return _show_threads(as_json)
    detector = DetectorSettings(model=AUTO)
    if measure:
        with progress_bar("measuring, seconds") as progress:
            rows = measured_rows(detector, say, progress, THOROUGH_S, anew=True)
    else:
        rows = known_rows(detector)
    findings = [*examine(), _networks(rows, detector)]
    if image_topic:
        say(f"listening to {image_topic} for some seconds")
        findings.append(images(image_topic, image_transport))
    give([asdict(finding) for finding in findings], findings_table(findings), as_json)
    if not as_json:
        if rows:
            Console().print(networks_table(rows))
        Console().print(_conclusion(findings), soft_wrap=True, highlight=False, markup=False)
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(1)


def findings_table(findings: list[Finding]) -> Table:
    """The findings as a table."""
    table = Table("", "what", "found", "remedy", title="This machine")
    for finding in findings:
        mark = "[green]ok" if finding.ok else "[red]missing" if finding.needed else "optional"
        remedy = "" if finding.ok else finding.remedy
        table.add_row(mark, *map(escape, (finding.subject, finding.found, remedy)))
    return table


def networks_table(rows: Sequence[Row]) -> Table:
    """What the networks take here as a table, one row for each way to run one."""
    figures = ("threads", "processors", "bare ms", "frame ms", "p99.9 ms", "times")
    table = figure_table(["network", "runtime"], figures, "What networks take here")
    for row in rows:
        times = [f"{one:.1f}" for one in (row.bare_ms, row.median_ms, row.p99_9_ms)]
        cells = [str(row.threads), row.cpus or "all", *(times if row.frames else ["", "", ""])]
        table.add_row(escape(row.model), row.backend, *cells, str(row.frames))
        if row.refused:
            table.add_row("", escape(row.refused))
    table.caption = (
        "bare: the median of inference; frame: from capture to detections, at a camera's pace; "
        "p99.9: of that, as predicted"
    )
    return table


def _conclusion(findings: Sequence[Finding]) -> str:
    """One sentence: whether the machine is fit, and what would make it better."""
    missing = [f"{one.subject} ({one.remedy})" for one in findings if one.needed and not one.ok]
    if missing:
        return f"Not fit: it lacks {'; '.join(missing)}."
    better = [one.subject for one in findings if not one.ok]
    return "Fit" + (f"; better still with: {', '.join(better)}." if better else ".")


def _networks(rows: Sequence[Row], detector: DetectorSettings) -> Finding:
    remedy = "perception doctor --measure, when nothing else runs"
    if not rows:
        return Finding("networks", False, "not measured on this machine", remedy, needed=False)
    row, why = best_of(rows, detector, DEADLINE_MS)
    taken = f"model:={row.model} backend:={row.backend} threads:={row.threads}: " if row else ""
    return Finding("networks", row is not None, taken + why, remedy, needed=False)


def thread_table(found: list[Thread]) -> Table:
    """The threads as a table, one row each."""
    figures = ("thread", "policy", "on", "faults", "switches", "computed", "waited")
    table = figure_table(["node", "name"], figures, "Threads of running nodes")
    for one in found:
        policy = f"{one.policy} {one.priority}" if one.priority else one.policy
        table.add_row(
            escape(one.node),
            escape(one.name),
            str(one.thread),
            f"[bold]{policy}" if one.priority else policy,
            str(one.processor),
            f"{one.minor_faults} + {one.major_faults}",
            f"{one.voluntary} + {one.involuntary}",
            f"{one.computed_ms / 1e3:.2f} s",
            f"{one.waited_ms / 1e3:.2f} s",
        )
    table.caption = (
        "on: the processor; faults: minor + major; switches: voluntary + involuntary; "
        "waited: ready to run, without a processor"
    )
    return table


def _show_threads(as_json: bool) -> None:
    found = [one for process, node in nodes().items() for one in threads(process, node)]
    shown = thread_table(found) if found else "no node is running on this machine"
    give([asdict(one) for one in found], shown, as_json)
