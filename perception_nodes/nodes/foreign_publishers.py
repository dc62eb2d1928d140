"""Finds publishers of a graph's topics that are none of its nodes: what they say is not ours."""

import os
from collections.abc import Iterable
from itertools import cycle
from typing import Any

from perception_nodes.graph.topics import protected
from perception_nodes.nodes.base import Period
from perception_nodes.nodes.image_topic import full_name
from perception_nodes.transport.notes import NODES

LOOK_NS = 100_000_000
"""One topic is looked at this often."""


class ForeignPublishers:
    """Watches topics in turn; nothing is known of the nodes of a graph without a supervisor."""

    def __init__(self, node: Any, topics: Iterable[str]) -> None:
        self._node = node
        both = (name for topic in topics for name in (topic, protected(topic)))
        self._topics = cycle([node.resolve_topic_name(name) for name in both])
        self._ours = {*os.environ.get(NODES, "").split()}
        self._seen: dict[str, set[str]] = {}
        self._found: dict[str, set[str]] = {}
        self._period = Period(LOOK_NS)

    def look(self) -> str:
        """Who publishes what, empty if nobody but us does."""
        if self._ours and self._period.due():
            topic = next(self._topics)
            infos = self._node.get_publishers_info_by_topic(topic)
            strangers = {full_name(info) or "a process without a node" for info in infos}
            strangers -= self._ours
            # The name of a new publisher comes some moments later than the publisher.
            self._found[topic] = strangers & self._seen.get(topic, set())
            self._seen[topic] = strangers
        found = self._found.items()
        return "; ".join(f"{topic} by {', '.join(sorted(who))}" for topic, who in found if who)
