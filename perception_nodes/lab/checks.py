"""What must hold of a run, as data: a name, what was found, and its limit."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from perception_nodes.report.account import ACCOUNTING, Account


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: what is checked.
        found: what was found, for people.
        limit: what must be, for people.
        passed: whether it is so.
        notes: what else a reader should know, one line each.
    """

    name: str
    found: str
    limit: str
    passed: bool
    notes: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """The check in one line, for where it has failed."""
        return f"{self.name}: {self.found}, expected: {self.limit}"


def at_most(name: str, found: float | None, limit: float | None, form: str = "{:g}") -> Check:
    """The check that a quantity is known, and no more than a limit if there is one.

    Args:
        name: what is checked.
        found: the quantity; None for what never happened.
        limit: the most that is allowed.
        form: format of both for people, such as `{:.0f} ms`.
    """
    shown = "never" if found is None else form.format(found)
    allowed = "at any time" if limit is None else f"at most {form.format(limit)}"
    return Check(name, shown, allowed, found is not None and (limit is None or found <= limit))


def accounting(found: Account, lost_on_the_way: int = 0) -> Iterator[Check]:
    """The checks that every frame is accounted for.

    Args:
        found: the account of a run.
        lost_on_the_way: how many published detections the network may lose.
    """
    for name, quantity in ACCOUNTING:
        limit = lost_on_the_way if quantity == "missing" else 0
        yield at_most(name, getattr(found, quantity), limit)


def problems(checks: Iterable[Check]) -> Sequence[str]:
    """The failed checks, one line each."""
    return [check.problem for check in checks if not check.passed]


def checks_table(checks: Iterable[Mapping[str, Any]]) -> Table:
    """The checks, as JSON holds them, as a table for the terminal."""
    table = Table("check", "found", "limit", "", box=None, padding=(0, 1, 0, 0))
    for check in checks:
        passed = "[green]PASS" if check["passed"] else "[red]FAIL"
        table.add_row(*(escape(check[key]) for key in ("name", "found", "limit")), passed)
    return table
