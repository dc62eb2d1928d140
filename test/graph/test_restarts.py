"""Deaths and restarts, by a clock of the test's own."""

from perception_nodes.core.failover import AT_ONCE, DEATHS_WITHIN_S, DELAY_S
from perception_nodes.graph.restarts import Restarts


def test_many_within_a_minute_are_delayed_until_the_minute_is_over():
    restarts = Restarts()
    found = [restarts.note_death("a", 0.1 * n) for n in range(AT_ONCE + 3)]
    delays_s = [0.0] * AT_ONCE + [DELAY_S] * 3
    assert found == list(enumerate(delays_s, 1))
    assert restarts.note_death("a", 2 * DEATHS_WITHIN_S) == (1, 0.0)
    assert restarts.note_death("b", 2 * DEATHS_WITHIN_S) == (1, 0.0)
    assert restarts.has_died("a") and not restarts.has_died("c")
