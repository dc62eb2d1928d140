"""The verdicts of a run of scenarios as they come, and the files that tell of them."""

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perception_nodes.graph.config import SettingsError
from perception_nodes.hil.judge import Verdict
from perception_nodes.hil.page import render
from perception_nodes.hil.scenario import Scenario
from perception_nodes.hil.verdict_files import verdicts_json, verdicts_junit
from perception_nodes.system.files import write_whole


class Results:
    """Verdicts, written after each scenario; a context manager that writes the page in the end.

    Attributes:
        verdicts: of the scenarios that were begun.
    """

    def __init__(self, scenarios: Sequence[Scenario], out: Path, junit: Path | None) -> None:
        """Write files that say that nothing was begun: also to know that they can be written.

        Args:
            scenarios: that are to be run.
            out: folder for the files; those of a run before are replaced.
            junit: a file for JUnit XML too.

        Raises:
            SettingsError: the files cannot be written.
        """
        self.verdicts: list[Verdict] = []
        self._names = [scenario.name for scenario in scenarios]
        self._seconds: list[float] = []
        self._out, self._junit = out, junit
        with _writing():
            self._write()
            (out / "report.html").unlink(missing_ok=True)  # of a run before

    @property
    def passed(self) -> bool:
        """Whether all were begun and all is as expected."""
        return not self._not_begun and all(verdict.passed for verdict in self.verdicts)

    def add(self, verdict: Verdict, took_s: float) -> None:
        """Take a verdict, and write those that there are.

        Raises:
            SettingsError: they cannot be written.
        """
        self.verdicts.append(verdict)
        self._seconds.append(took_s)
        self._write()

    def interrupted(self, scenario: Scenario, took_s: float) -> None:
        """The same for a scenario that the user has ended."""
        problems = ["interrupted before it was over"]
        self.add(Verdict(scenario=scenario.name, title=scenario.title, problems=problems), took_s)

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {**verdicts_json(self.verdicts), "not_begun": self._not_begun}

    def __enter__(self) -> "Results":
        """Nothing to do: the files are there."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the page; that takes seconds, in which the user may lose patience."""
        with _writing():
            machine = self.as_json()["machine"]
            page = render(machine, self.verdicts, self._out, self._not_begun)
            write_whole(self._out / "report.html", page)

    @property
    def _not_begun(self) -> list[str]:
        return self._names[len(self.verdicts) :]

    def _write(self) -> None:
        with _writing():
            write_whole(self._out / "verdicts.json", json.dumps(self.as_json(), indent=2) + "\n")
            if self._junit is not None:
                text = verdicts_junit(self.verdicts, self._seconds, self._not_begun)
                write_whole(self._junit, text)


@contextmanager
def _writing() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM wait for a file; one that cannot be written is an error in words."""
    waiting: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: waiting.append(number)) for number in numbers]
    try:
        yield
    except OSError as error:
        raise SettingsError(f"the verdicts cannot be written: {error}") from error
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if waiting:
        raise KeyboardInterrupt
