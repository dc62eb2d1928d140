"""Finds publishers of a graph's topics that are none of its nodes: what they say is not ours."""

import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import cycle
from typing import Any

from perception_nodes.graph.topics import protected
from perception_nodes.nodes.base import Period
from perception_nodes.nodes.image_topic import full_name
from perception_nodes.system.processes import stat_of
from perception_nodes.transport.notes import NODES

LOOK_NS = 100_000_000
"""One topic is looked at this often."""
MACHINE_BYTES, SENDER_BYTES = 4, 6
"""Fast DDS's identifiers begin with maker and machine, and then the process, modulo 65,536."""


class ForeignPublishers:
    """Watches topics in turn; nothing is known of the nodes of a graph without a supervisor."""

    def __init__(self, node: Any, topics: Iterable[str]) -> None:
        self._node = node
        both = (name for topic in topics for name in (topic, protected(topic)))
        self._topics = cycle([node.resolve_topic_name(name) for name in both])
        self._ours = {*os.environ.get(NODES, "").split()}
        self._machine = b""
        self._known: set[bytes] = set()
        self._seen: dict[str, set[str]] = {}
        self._found: dict[str, set[str]] = {}
        self._period = Period(LOOK_NS)

    def look(self) -> str:
        """Who publishes what, empty if nobody but us does."""
        if self._ours and self._period.due():
            topic = next(self._topics)
            infos = self._node.get_publishers_info_by_topic(topic)
            strangers = {self._stranger(info) for info in infos} - {""}
            # The name of a new publisher comes some moments later than the publisher.
            self._found[topic] = strangers & self._seen.get(topic, set())
            self._seen[topic] = strangers
        found = self._found.items()
        return "; ".join(f"{topic} by {', '.join(sorted(who))}" for topic, who in found if who)

    def _stranger(self, info: Any) -> str:
        """How to call a publisher that is none of ours; empty for one that is."""
        name, sender = full_name(info), bytes(info.endpoint_gid[:SENDER_BYTES])
        if name not in self._ours:
            return name or "a process without a node"
        if sender in self._known:
            return ""
        numbered = _numbered(sender)
        if name == self._node.get_fully_qualified_name() and os.getpid() in numbered:
            self._machine = sender[:MACHINE_BYTES]
        # Processes that began before the machine's addresses changed name it otherwise.
        is_here = sender.startswith(self._machine)
        is_other = any(one[MACHINE_BYTES:] == sender[MACHINE_BYTES:] for one in self._known)
        # Who has just died is still known to the middleware for a while.
        if os.getppid() in {*numbered, *numbered.values()} and (is_here or not is_other):
            self._known.add(sender)
        elif numbered or not is_here:
            return f"another {name}"
        return ""


def _numbered(sender: bytes) -> dict[int, int]:
    """The processes here that can have a sender's number, with their parents."""
    low, found = int.from_bytes(sender[MACHINE_BYTES:], "little"), {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) % (1 << 16) == low:
            with suppress(OSError):
                found[int(name)] = int(stat_of(f"/proc/{name}")[1][1])
    return found
