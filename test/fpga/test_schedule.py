"""The order of operations: none comes before one that it reads, and few wait."""

from hypothesis import given, settings
from random_networks import networks

from perception_nodes.backends.qdq import read_network
from perception_nodes.core.tensor_graph import build_graph
from perception_nodes.fpga.lower import lower
from perception_nodes.fpga.schedule import depends, schedule
from perception_nodes.networks.model import load_model


def waits(operations):
    return sum(depends(b, a) for a, b in zip(operations, operations[1:], strict=False))


@given(networks(most=14))
@settings(max_examples=100)
def test_nothing_comes_before_what_it_reads(case):
    given_order = lower(build_graph(case[0])).operations
    order = schedule(given_order)
    number = {id(operation): n for n, operation in enumerate(order)}
    assert sorted(number) == sorted(map(id, given_order))
    for n, operation in enumerate(given_order):
        for before in given_order[:n]:
            if depends(operation, before):
                assert number[id(before)] < number[id(operation)]


def test_branches_of_the_shipped_model_take_turns():
    operations = lower(build_graph(read_network(load_model("open-n").path))).operations
    order = schedule(operations)
    assert waits(order) < waits(operations)
    # In the head no operation waits, because there is always another branch.
    heads = [o for o in order if o.layer.name.startswith("/model.5/")]
    assert order[-len(heads) :] != heads  # they fill the neck's waits too
    assert waits(order[order.index(heads[0]) :]) <= waits(order) / 2
