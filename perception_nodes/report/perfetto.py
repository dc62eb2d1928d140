"""Writes traces for ui.perfetto.dev: lanes with slices, instants, counters and flows.

The format is Chrome's JSON (Trace Event Format), which Perfetto reads too. Times are in whole
microseconds: Perfetto turns fractions into nanoseconds by a product of floats, after which slices
that touch may overlap.
"""

import itertools
import json
from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, int | float | str]
Lane = Mapping[str, int]
"""The numbers of a process and of a row of slices in it."""


class Trace:
    """A trace in memory."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        # Perfetto names rows by their numbers alone, so these differ in all processes.
        self._numbers = itertools.count(1)
        self._flows: set[int] = set()

    def process(self, name: str) -> int:
        """Add a process; returns its number."""
        return self._named("process", {"pid": next(self._numbers)}, name)["pid"]

    def lane(self, process: int, name: str) -> Lane:
        """Add a row for slices and instants to a process."""
        return self._named("thread", {"pid": process, "tid": next(self._numbers)}, name)

    def slice(
        self, lane: Lane, name: str, begin_ns: int, end_ns: int, facts: Facts, flow: int
    ) -> None:
        """Add something that lasts; slices of one lane must not overlap.

        Args:
            lane: where it is shown.
            name: its name.
            begin_ns: when it began.
            end_ns: when it ended.
            facts: what is shown of it when it is chosen.
            flow: slices of the same flow are connected by arrows, in the order of adding.
        """
        span = {"ts": begin_ns // 1000, "dur": max(0, end_ns // 1000 - begin_ns // 1000)}
        arrows = {"bind_id": flow, "flow_in": flow in self._flows, "flow_out": True}
        self._flows.add(flow)
        self._events.append({"ph": "X", "name": name, "args": facts, **lane, **span, **arrows})

    def instant(self, lane: Lane, name: str, at_ns: int, facts: Facts) -> None:
        """Add something that happened at one time."""
        at = {"ts": at_ns // 1000, "s": "t"}
        self._events.append({"ph": "i", "name": name, "args": facts, **lane, **at})

    def count(self, process: int, name: str, at_ns: int, unit: str, value: float) -> None:
        """Set the value of a process's counter from this time on."""
        where = {"pid": process, "ts": at_ns // 1000}
        self._events.append({"ph": "C", "name": name, "args": {unit: value}, **where})

    def text(self) -> str:
        """The file."""
        return json.dumps({"traceEvents": self._events})

    def _named(self, kind: str, where: dict[str, int], name: str) -> dict[str, int]:
        self._events.append({"ph": "M", "name": f"{kind}_name", "args": {"name": name}, **where})
        return where
