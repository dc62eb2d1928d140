"""A new publisher is heard soon after it knows its listeners, or when it has waited long enough."""

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


def test_no_listener_is_waited_for_for_ever():
    audience = Audience(0, PATIENCE_NS, lambda: False)
    assert not audience.hears(PATIENCE_NS)
    assert audience.hears(PATIENCE_NS + 1)


def test_knowing_them_late_does_not_make_the_wait_longer():
    audience = Audience(0, PATIENCE_NS, lambda: True)
    assert not audience.hears(PATIENCE_NS - 1)
    assert audience.hears(PATIENCE_NS + 1)
