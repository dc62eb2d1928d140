"""Scenarios and verdicts as tables for people, as JSON, and as JUnit XML."""

import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from rich.table import Table

from perception_nodes.faults.scenario import Scenario
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.report.page import NO_VALUE, shown
from perception_nodes.system.processes import machine

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML does not allow, such as the colour codes in a node's messages."""


def verdicts_table(verdicts: Sequence[ScenarioVerdict]) -> Table:
    """The verdicts, one row each."""
    # Narrow: with the longest names it fits into 80 columns.
    titles = ("scenario", "reported", "mode", "lost", "silently", "detects", "NOMINAL", "verdict")
    table = Table(*titles, box=None, padding=(0, 1, 0, 0))
    for verdict in verdicts:
        table.add_row(
            verdict.scenario,
            _ms(verdict.detected_ms),
            NO_VALUE if verdict.worst is None else verdict.worst.name,
            f"{verdict.without_detections}/{verdict.sent}",
            str(verdict.lost_silently),
            _ms(verdict.detections_ms),
            _ms(verdict.recovered_ms),
            "[green]PASS" if verdict.passed else "[red]FAIL",
        )
    return table


def problem_lines(verdicts: Sequence[ScenarioVerdict]) -> list[str]:
    """What was not as expected, one line each."""
    return [f"{verdict.scenario}: {text}" for verdict in verdicts for text in verdict.problems]


def scenarios_table(scenarios: Sequence[Scenario]) -> Table:
    """The scenarios, one row each."""
    table = Table("name", "what happens", "reported", "mode", "what may be lost", "NOMINAL")
    table.columns[0].no_wrap = True
    for scenario in scenarios:
        expect = scenario.expect
        table.add_row(
            scenario.name,
            scenario.title,
            _ms(expect.detected_within_ms),
            expect.told,
            expect.lost,
            _ms(expect.recovered_within_ms),
        )
    return table


def scenarios_markdown(scenarios: Sequence[Scenario]) -> str:
    """The scenarios as the table in docs/faults.md."""
    rows = [
        "| scenario | what happens | what must be reported | within | health mode "
        "| what may be lost | detections again within | NOMINAL again within |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for scenario in scenarios:
        expect = scenario.expect
        said = expect.cause.replace(".* ", " … ").replace("|", '" or "')
        worst = expect.at_worst or expect.told
        cells = [
            f"`{scenario.name}`",
            scenario.title,
            f'"{said}"' if said else "nothing",
            _ms(expect.detected_within_ms),
            expect.told if worst == expect.told else f"{expect.told} to {worst}",
            expect.lost,
            _ms(expect.detections_within_ms),
            _ms(expect.recovered_within_ms),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def verdicts_json(verdicts: Sequence[ScenarioVerdict]) -> dict[str, Any]:
    """The verdicts, and the machine that they were given on."""
    passed = sum(verdict.passed for verdict in verdicts)
    return {
        "machine": machine(),
        "passed": passed,
        "failed": len(verdicts) - passed,
        "verdicts": [{"passed": verdict.passed, **verdict.model_dump()} for verdict in verdicts],
    }


def verdicts_junit(
    verdicts: Sequence[ScenarioVerdict], seconds: Sequence[float], not_begun: Sequence[str] = ()
) -> str:
    """The verdicts as JUnit XML.

    Args:
        verdicts: one test case each.
        seconds: how long each took.
        not_begun: names of the scenarios that were not begun; they count as skipped.
    """
    failures = sum(not verdict.passed for verdict in verdicts)
    suite = ElementTree.Element(
        "testsuite",
        name="perception hil",
        tests=str(len(verdicts) + len(not_begun)),
        failures=str(failures),
        skipped=str(len(not_begun)),
        time=f"{sum(seconds):.1f}",
    )
    for verdict, took_s in zip(verdicts, seconds, strict=True):
        case = ElementTree.SubElement(
            suite, "testcase", classname="hil", name=verdict.scenario, time=f"{took_s:.1f}"
        )
        if not verdict.passed:
            told = [_UNPRINTABLE.sub("?", problem) for problem in verdict.problems]
            failure = ElementTree.SubElement(case, "failure", message=told[0])
            failure.text = "\n".join(told)
    for name in not_begun:
        case = ElementTree.SubElement(suite, "testcase", classname="hil", name=name, time="0.0")
        ElementTree.SubElement(case, "skipped", message="the run ended before its turn")
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _ms(value: float | None) -> str:
    return shown(value, "{:.0f} ms")
