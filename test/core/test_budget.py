"""The deadline and its split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.core.budget import DEADLINE_MS, Budget


def test_the_deadline_is_ten_milliseconds():
    assert DEADLINE_MS == Budget().deadline_ms == 10.0
    assert Budget().deadline_ns == 10_000_000


@given(st.floats(0.1, 10_000))
def test_another_deadline_keeps_the_proportions(deadline_ms):
    scaled = Budget.for_deadline(deadline_ms)
    assert scaled.deadline_ms == pytest.approx(deadline_ms)
    assert scaled.inference / scaled.publish == pytest.approx(6.0)
