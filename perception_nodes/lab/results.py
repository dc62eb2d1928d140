"""The verdicts of a run of scenarios, and the files that they are kept in from the start."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perception_nodes.faults.scenario import Scenario
from perception_nodes.graph.settings import SettingsError
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.lab.verdict_files import verdicts_json, verdicts_junit
from perception_nodes.system.files import write_whole
from perception_nodes.system.signals import handled_stopping

ROOM_BYTES = 16 << 20
"""The page takes 5 MB, a scenario a quarter of one."""
ENDS = (".mcap", ".log", ".unit.log")
"""Of the names of a run's recording, and of the messages of its nodes, here and on the unit."""


class Results:
    """Writes the verdicts after each scenario; a context manager that finally writes the page.

    Attributes:
        verdicts: of the scenarios that were begun.
    """

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
            (out / name).unlink(missing_ok=True)  # of an earlier run
        free = shutil.disk_usage(out).free
        if free < ROOM_BYTES:
            raise SettingsError(
                f"{out} has only {free / 1e6:.1f} MB free, and {ROOM_BYTES / 1e6:.0f} are needed; "
                "make room, or name another folder"
            )

    @property
    def passed(self) -> bool:
        """Whether all were begun and all is as expected."""
        return not self._not_begun and all(verdict.passed for verdict in self.verdicts)

    def add(self, verdict: ScenarioVerdict, took_s: float) -> None:
        """Add a verdict, and write all that there are."""
        self.verdicts.append(verdict)
        self._seconds.append(took_s)
        self._write()

    def interrupted(self, scenario: Scenario, took_s: float) -> None:
        """Add the verdict of a scenario that the user has interrupted."""
        problems = ["interrupted before it was over"]
        self.add(
            ScenarioVerdict(scenario=scenario.name, title=scenario.title, problems=problems), took_s
        )

    def as_json(self) -> dict[str, Any]:
        """The verdicts and the scenarios that were not begun, for machines."""
        return {**verdicts_json(self.verdicts), "not_begun": self._not_begun}

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *_: object) -> None:
        """Write the page."""
        with _undisturbed():
            machine = self.as_json()["machine"]
            # Imported here: every command would load the plotting library otherwise.
            from perception_nodes.lab.page import render

            page = render(machine, self.verdicts, self._out, self._not_begun)
            write_whole(self._out / "report.html", page)

    @property
    def _not_begun(self) -> list[str]:
        return self._names[len(self.verdicts) :]

    def _write(self) -> None:
        with _undisturbed():
            write_whole(self._out / "verdicts.json", json.dumps(self.as_json(), indent=2) + "\n")
            if self._junit is not None:
                text = verdicts_junit(self.verdicts, self._seconds, self._not_begun)
                write_whole(self._junit, text)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Delay the signals that end us until a file is written: the page takes seconds.

    Raises:
        KeyboardInterrupt: one of the signals came meanwhile.
    """
    waiting: list[int] = []
    with handled_stopping(lambda number, _: waiting.append(number)):
        yield
    if waiting:
        raise KeyboardInterrupt
