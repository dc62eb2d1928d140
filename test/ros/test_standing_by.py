"""What nodes say of themselves before they do something that takes long."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from perception_nodes.nodes.base import LONG_NS, PerceptionNode
from perception_nodes.nodes.redundant import RedundantNode
from perception_nodes.nodes.watchdog_node import WatchdogNode


@pytest.mark.parametrize("active", [False, True])
def test_only_an_active_node_says_that_it_is_busy(active: bool) -> None:
    """The watchdog would wait for signs of life after these, and kill the node for their lack."""
    sent: list[int] = []
    records = SimpleNamespace(patience_ns=7)
    node = SimpleNamespace(active=active, seats=(SimpleNamespace(records=records),))
    node.sign, node.records = (lambda: sent.append(records.patience_ns)), records
    node.realtime = SimpleNamespace(leisurely=nullcontext)
    node._announce = lambda patience_ns: RedundantNode._announce(node, patience_ns)
    with RedundantNode.busy(node):
        pass
    assert sent == ([LONG_NS, 7] if active else [])


def test_a_node_says_so_before_it_makes_its_real_time_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy machine the garbage collector computes for longer than a node may be silent."""
    said: list[object] = []
    records = SimpleNamespace(patience_ns=7)
    node = RedundantNode.__new__(RedundantNode)
    node.active, node.seats = True, (SimpleNamespace(records=records),)
    node.realtime = SimpleNamespace(leisurely=nullcontext)
    node.sign = lambda: said.append(records.patience_ns)
    monkeypatch.setattr(PerceptionNode, "begin_real_time", lambda self: said.append("begins"))
    node.begin_real_time()
    assert said == [LONG_NS, "begins", 7]


def test_the_watchdog_says_so_before_it_cleans_up_after_a_dead_process() -> None:
    """Else the others take it for hung: the graph would be UNSAFE after each death."""
    said: list[object] = []
    node = SimpleNamespace(
        _sign=said.append,
        _patience_ns=7,
        endpoint=SimpleNamespace(reclaim_dead=lambda: said.append("cleans up")),
        realtime=SimpleNamespace(leisurely=nullcontext),
    )
    WatchdogNode._reclaim(node)
    assert said == [LONG_NS, "cleans up", 7]
