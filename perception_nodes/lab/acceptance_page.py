"""The page of an acceptance, to hand over, and its table for the terminal."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from perception_nodes.lab.deadline import SOAK
from perception_nodes.lab.deadline_report import tail
from perception_nodes.report import page
from perception_nodes.report.page import shown


def render(verdict: dict[str, Any]) -> str:
    """The page as HTML text.

    Args:
        verdict: of `Acceptance.run`.
    """
    latencies_ms, frames = verdict["latencies_ms"], verdict["frames"]
    measured = {
        "deadline_ms": verdict["deadline_ms"],
        "conditions": {SOAK: {"latencies_ms": latencies_ms, "frames": frames["frames_in"]}},
    }
    return page.render(
        "acceptance.html.j2",
        heading=f"{verdict['machine']}; perception_nodes {verdict['version']}; {verdict['made']}",
        tone="good" if verdict["fit"] else "bad",
        verdict=sentence(verdict),
        checks=verdict["checks"],
        tail=tail(measured) if latencies_ms else "",
        stages=[
            (stage, shown(took["p50"], "{:.2f}"), shown(took["p99"], "{:.2f}"))
            for stage, took in frames["stages_ms"].items()
        ],
        statuses=frames["status"],
        failures=frames["failures"],
        model=verdict["model"],
        parameters=verdict["parameters"],
    )


def sentence(verdict: dict[str, Any]) -> str:
    """The verdict in words."""
    checks = verdict["checks"]
    failed = [check["name"] for check in checks if not check["passed"]]
    if not failed:
        return f"Fit: all {len(checks)} checks passed in {verdict['minutes']:g} minutes."
    return f"Not fit: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}."


def checks_table(verdict: dict[str, Any]) -> Table:
    """The checks as a table for the terminal."""
    table = Table("check", "found", "limit", "", box=None, padding=(0, 1, 0, 0))
    for check in verdict["checks"]:
        passed = "[green]PASS" if check["passed"] else "[red]FAIL"
        table.add_row(*map(escape, (check["name"], check["found"], check["limit"])), passed)
    return table
