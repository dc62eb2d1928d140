"""Deaths and restarts, by a clock of the test's own."""

import pytest

from perception_nodes.core.failover import AT_ONCE, DEATHS_WITHIN_S, DELAY_S, SAME_CAUSE, WORKED_S
from perception_nodes.graph.restarts import Restarts


def test_many_within_a_minute_are_delayed_until_the_minute_is_over():
    restarts = Restarts()
    found = [restarts.note_death("a", 0.1 * n) for n in range(AT_ONCE + 3)]
    assert found == list(enumerate([0.0] * AT_ONCE + [DELAY_S] * 3, 1))
    assert restarts.note_death("a", 2 * DEATHS_WITHIN_S) == (1, 0.0)
    assert restarts.note_death("b", 2 * DEATHS_WITHIN_S) == (1, 0.0)
    assert restarts.has_died("a") and not restarts.has_died("c")


@pytest.mark.parametrize(
    ("causes", "lives_s", "hopeless"),
    [
        (["no lens"] * SAME_CAUSE, 1.0, True),
        (["frame 7 is broken", "frame 8 is broken", "frame 8 is broken"], 1.0, True),
        (["no lens"] * (SAME_CAUSE - 1), 1.0, False),
        (["no lens", "no memory", "no lens"], 1.0, False),
        ([""] * SAME_CAUSE, 1.0, False),  # killed by others
        (["no lens", "", "no lens", "no lens"], 1.0, False),
        (["no lens"] * SAME_CAUSE, 2 * WORKED_S, False),
    ],
)
def test_only_what_never_works_and_dies_by_one_cause_is_hopeless(causes, lives_s, hopeless):
    restarts, now_s = Restarts(), 1000.0
    for cause in causes:
        restarts.note_start("a", now_s)
        now_s += lives_s
        restarts.note_death("a", now_s, cause)
        lives_s = 1.0
    assert restarts.is_hopeless("a") is hopeless
    assert not restarts.is_hopeless("b")
