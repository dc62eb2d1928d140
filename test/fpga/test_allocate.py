"""Activation memory: buffers living at the same time never overlap; missing rows are reported."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import networks

from perception_nodes.core.inference import BackendError
from perception_nodes.core.tensor_graph import build_graph
from perception_nodes.fpga.allocate import Lifetime, allocate, in_place, lifetimes
from perception_nodes.fpga.lower import Buffer, lower

PLENTY = 1 << 30


def overlapping(buffers, times, bases):
    """Pairs of buffers that share a row and an instant."""
    spans = [(base, base + b.rows) for base, b in zip(bases, buffers, strict=True)]
    for one, other in itertools.combinations(range(len(buffers)), 2):
        together = times[one].first <= times[other].last and times[other].first <= times[one].last
        if together and spans[one][0] < spans[other][1] and spans[other][0] < spans[one][1]:
            yield one, other


boxes = st.tuples(
    st.builds(Buffer, st.just("b"), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
    st.tuples(st.integers(0, 20), st.integers(0, 8)).map(lambda t: Lifetime(t[0], t[0] + t[1])),
)


@given(st.lists(boxes, min_size=1, max_size=25))
def test_what_lives_together_lies_apart(drawn):
    buffers, times = zip(*drawn, strict=True)
    bases, used = allocate(buffers, times, PLENTY)
    assert not list(overlapping(buffers, times, bases))
    assert used == max(base + b.rows for base, b in zip(bases, buffers, strict=True))
    at_once = [
        sum(b.rows for b, t in drawn if t.first <= instant <= t.last) for instant in range(30)
    ]
    assert max(at_once) <= used <= sum(b.rows for b in buffers)


@given(networks())
@settings(max_examples=100)
def test_what_a_network_still_needs_is_not_overwritten(case):
    lowered = lower(build_graph(case[0]))
    times = lifetimes(lowered.buffers, lowered.operations)
    replaced = in_place(lowered.buffers, lowered.operations, times)
    bases, _ = allocate(lowered.buffers, times, PLENTY, replaced)
    lags = {frozenset(pair): lag for *pair, lag in replaced}
    for pair in overlapping(lowered.buffers, times, bases):
        assert abs(bases[pair[0]] - bases[pair[1]]) == lags[frozenset(pair)]
    # Lifetimes computed in a plain way: from the first write to the last read.
    written = {0: -1}
    for number, operation in enumerate(lowered.operations):
        for buffer in operation.buffers_read():
            assert written[buffer] < number <= times[buffer].last
        if operation.target is not None:
            assert operation.target.buffer not in operation.buffers_read() or all(
                operation.target.group >= place.group + place.groups
                or place.group >= operation.target.group + operation.target.groups
                for place in (*operation.segments, *filter(None, [operation.residual]))
                if place.buffer == operation.target.buffer
            )
            written.setdefault(operation.target.buffer, number)
    assert all(times[buffer].first == first for buffer, first in written.items())


def test_what_does_not_fit_says_how_much_is_lacking():
    buffers = [Buffer("image", 10, 40, 1), Buffer("large", 20, 37, 2), Buffer("small", 5, 40, 1)]
    times = [Lifetime(-1, 0), Lifetime(0, 1), Lifetime(1, 2)]
    bases, used = allocate(buffers, times, 500)
    assert used == 500
    with pytest.raises(BackendError) as caught:
        allocate(buffers, times, 450)
    text = str(caught.value)
    assert re.search(r"needs 500 rows .* has 450: 50 rows of 64 bytes are lacking", text)
    assert "large (32x20x37), takes 400" in text
