"""What a planner holds: never of the future, and the newest that there is."""

from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.evaluation.streaming import held_at, staleness_ms

PERIOD_NS = 100_000_000
STAMPS = st.integers(1, 40).map(lambda count: [PERIOD_NS * (1 + i) for i in range(count)])
DELAYS_NS = st.lists(st.none() | st.integers(0, 5 * PERIOD_NS), min_size=40, max_size=40)
"""How long a frame's detections take; None if there are none."""


@given(STAMPS, st.integers(0, 8 * PERIOD_NS))
def test_a_constant_delay_shifts_the_frames(stamps, delay_ns):
    frames = -(-delay_ns // PERIOD_NS)
    held = held_at(stamps, {stamp: stamp + delay_ns for stamp in stamps})
    assert held == ([None] * frames + stamps)[: len(stamps)]
    late_ms = frames * PERIOD_NS / 1e6 if len(stamps) > frames else None
    assert staleness_ms(stamps, held) == {"p50": late_ms, "p99": late_ms}


@given(STAMPS, DELAYS_NS)
def test_held_is_the_newest_frame_that_is_published_and_dropped_ones_use_no_future(stamps, delays):
    both = zip(stamps, delays, strict=False)
    published = {stamp: stamp + delay for stamp, delay in both if delay is not None}
    for at_ns, held in zip(stamps, held_at(stamps, published), strict=True):
        out = [stamp for stamp, published_ns in published.items() if published_ns <= at_ns]
        assert held == max(out, default=None)
        assert held is None or published[held] <= at_ns
