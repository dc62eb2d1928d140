"""A node that is not active speaks to nobody."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from perception_nodes.nodes.redundant import LONG_NS, RedundantNode


@pytest.mark.parametrize("active", [False, True])
def test_only_an_active_node_says_that_it_is_busy(active: bool) -> None:
    """The watchdog would wait for signs of life after these, and kill the node for their lack."""
    sent: list[int] = []
    records = SimpleNamespace(patience_ns=7)
    records.send = lambda record: sent.append(records.patience_ns)
    node = SimpleNamespace(active=active, seats=(SimpleNamespace(records=records),))
    node.sign, node.records = (lambda: None), records
    node.realtime = SimpleNamespace(leisurely=nullcontext)
    node._announce = lambda patience_ns: RedundantNode._announce(node, patience_ns)
    with RedundantNode.busy(node):
        pass
    assert sent == ([LONG_NS, 7] if active else [])
