"""A new publisher is heard soon after it knows its listeners, or when it has waited long enough."""

import pytest

from perception_nodes.watchdog.audience import ACQUAINTANCE_NS, Audience

PATIENCE_NS = 10 * ACQUAINTANCE_NS


def test_listeners_get_time_to_discover_us_once_we_know_them():
    known = [False]
    audience = Audience(0, PATIENCE_NS, lambda: known[0])
    assert not audience.hears(2 * ACQUAINTANCE_NS)
    known[0] = True
    assert not audience.hears(3 * ACQUAINTANCE_NS)
    known[0] = False
    assert not audience.hears(4 * ACQUAINTANCE_NS)
    assert audience.hears(4 * ACQUAINTANCE_NS + 1)


@pytest.mark.parametrize("known_at_last", [False, True])
def test_no_listener_is_waited_for_for_ever(known_at_last):
    known = [False]
    audience = Audience(0, PATIENCE_NS, lambda: known[0])
    assert not audience.hears(PATIENCE_NS - 1)
    known[0] = known_at_last
    assert not audience.hears(PATIENCE_NS)
    assert audience.hears(PATIENCE_NS + 1)
