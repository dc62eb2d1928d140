"""The table of cases that both consumers must judge alike."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from faults import BEGIN_NS, MS, TOPIC, Call

from perception_nodes.core.health import HealthMode
from perception_nodes.protection.consumer import Content, Instant, State
from perception_nodes.protection.profile import data_id, protect


class Case(NamedTuple):
    """Calls of a consumer, and the state and mode that each is to give."""

    name: str
    content: Content
    calls: list[Call]
    expected: list[tuple[int, int]]


def _call(given: dict[str, Any], now: Instant) -> Call:
    if "number" not in given:
        return Call(None, now)
    deadline_ns = given.get("deadline_ns", now.wall_ns + given.get("deadline_ms", 5) * MS)
    data = bytes.fromhex(given["data"])
    identity = data_id(TOPIC, given.get("sender", 0))
    return Call(protect(data, identity, given["number"], deadline_ns), now)


def cases() -> list[Case]:
    """All cases of the table."""
    found = []
    table = yaml.safe_load((Path(__file__).parent / "cases.yaml").read_text(encoding="utf-8"))
    for row in table:
        now, calls, expected = Instant(7 * 10**9, BEGIN_NS), [], []
        for given in row["calls"]:
            waited_ns = given.get("after", 33) * MS
            now = Instant(now.monotonic_ns + waited_ns, now.wall_ns + waited_ns)
            calls.append(_call(given, now))
            expected.append((State[given["state"]], HealthMode[given["mode"]]))
        found.append(Case(row["name"], Content[row["content"]], calls, expected))
    return found
