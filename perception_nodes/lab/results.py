"""The verdicts of a run of scenarios: their files, kept from the start, and tables for people."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.table import Table

from perception_nodes.faults.scenario import Scenario
from perception_nodes.graph.settings import SettingsError
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.lab.page import scenarios_page
from perception_nodes.report import page
from perception_nodes.report.page import NO_VALUE, shown
from perception_nodes.system.files import write_whole
from perception_nodes.system.processes import machine
from perception_nodes.system.signals import handled_stopping

ROOM_BYTES = 16 << 20
"""Room needed: a scenario takes a quarter of a megabyte, and the page less than one."""
ENDS = (".mcap", ".log", ".unit.log")
"""Ends of the names of a run's recording, and of its nodes' messages here and on the unit."""
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML does not allow, such as the colour codes in a node's messages."""


class Results(AbstractContextManager["Results"]):
    """Writes the verdicts after each scenario; a context manager that finally writes the page.

    Attributes:
        verdicts: of the scenarios that were begun.
        interrupted: whether the user has interrupted the last of them.
    """

    interrupted = False

    def __init__(self, scenarios: Sequence[Scenario], out: Path, junit: Path | None) -> None:
        """Write files that list all scenarios as not begun.

        Args:
            scenarios: those to run.
            out: folder for the files; those of an earlier run are replaced.
            junit: file for JUnit XML, if it is wanted.

        Raises:
            SettingsError: the disk is too full.
        """
        self.verdicts: list[ScenarioVerdict] = []
        self._names = [scenario.name for scenario in scenarios]
        self._seconds: list[float] = []
        self._out, self._junit = out, junit
        self._write()
        of_runs = [f"{run}{end}" for scenario in scenarios for run in scenario.runs for end in ENDS]
        for name in ("report.html", *of_runs):
            (out / name).unlink(missing_ok=True)  # files of an earlier run
        free = shutil.disk_usage(out).free
        if free < ROOM_BYTES:
            left = f"{free / 1e6:.1f} MB free, and {ROOM_BYTES / 1e6:.0f} are needed"
            raise SettingsError(f"{out} has only {left}; make room, or name another folder")

    @property
    def passed(self) -> bool:
        """Whether all scenarios were begun, and each went as expected."""
        return not self._not_begun and all(verdict.passed for verdict in self.verdicts)

    @property
    def _not_begun(self) -> list[str]:
        return self._names[len(self.verdicts) :]

    def add(self, verdict: ScenarioVerdict, took_s: float) -> None:
        """Add a verdict, and write all verdicts so far."""
        self.verdicts.append(verdict)
        self._seconds.append(took_s)
        self._write()

    def as_json(self) -> dict[str, Any]:
        """The verdicts, the machine that they were given on, and the scenarios not begun."""
        passed = sum(verdict.passed for verdict in self.verdicts)
        return {
            "machine": machine(),
            "passed": passed,
            "failed": len(self.verdicts) - passed,
            "verdicts": [{"passed": one.passed, **one.model_dump()} for one in self.verdicts],
            "not_begun": self._not_begun,
        }

    def as_junit(self) -> str:
        """The verdicts as JUnit XML; scenarios that were not begun count as skipped."""
        problems = [[_UNPRINTABLE.sub("?", line) for line in one.problems] for one in self.verdicts]
        cases = zip_longest(self._names, self._seconds, problems)
        counts = {"failed": sum(map(bool, problems)), "skipped": len(self._not_begun)}
        return page.render("junit.xml.j2", cases=list(cases), **counts) + "\n"

    def __exit__(self, *_: object) -> None:
        """Write the page."""
        with _undisturbed():
            report = scenarios_page(machine(), self.verdicts, self._out, self._not_begun)
            write_whole(self._out / "report.html", report)

    def _write(self) -> None:
        with _undisturbed():
            write_whole(self._out / "verdicts.json", json.dumps(self.as_json(), indent=2) + "\n")
            if self._junit is not None:
                write_whole(self._junit, self.as_junit())


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Delay the signals that end us until a file is written.

    Raises:
        KeyboardInterrupt: one of the signals came meanwhile.
    """
    waiting: list[int] = []
    with handled_stopping(lambda number, _: waiting.append(number)):
        yield
    if waiting:
        raise KeyboardInterrupt


def verdicts_table(verdicts: Sequence[ScenarioVerdict]) -> Table:
    """The verdicts, one row each."""
    # Keep it narrow: with the longest names it fits into 80 columns.
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


def scenarios_table(scenarios: Sequence[Scenario]) -> Table:
    """The scenarios, one row each."""
    table = Table("name", "what happens", "reported", "mode", "what may be lost", "NOMINAL")
    table.columns[0].no_wrap = True
    for scenario in scenarios:
        _, _, within, _, lost, _, nominal = expected(scenario)
        table.add_row(scenario.name, scenario.title, within, scenario.expect.told, lost, nominal)
    return table


def expected(scenario: Scenario) -> list[str]:
    """Make the cells: fault, report, its time, mode, loss, times of detections and recovery."""
    expect = scenario.expect
    said = expect.cause.replace(".* ", " … ").replace("|", '" or "')
    worst = expect.at_worst or expect.told
    return [
        scenario.title,
        f'"{said}"' if said else "nothing",
        _ms(expect.detected_within_ms),
        expect.told if worst == expect.told else f"{expect.told} to {worst}",
        expect.lost,
        _ms(expect.detections_within_ms),
        _ms(expect.recovered_within_ms),
    ]


def _ms(value: float | None) -> str:
    return shown(value, "{:.0f} ms")
