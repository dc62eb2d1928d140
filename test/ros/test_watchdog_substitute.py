"""Who speaks for the watchdog falls silent at once when there is a watchdog again."""

import errno
import os
import time
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Bool

from perception_nodes.core.failover import LOOK_NS
from perception_nodes.graph.config import DetectorSettings
from perception_nodes.nodes import base, watchdog_substitute
from perception_nodes.nodes.protected_topic import PERIOD_NS
from perception_nodes.nodes.watchdog_substitute import VOICE, WatchdogSubstitute
from perception_nodes.transport.lease import Lease
from perception_nodes.watchdog.guard import ROLE

PATIENCE_NS = 10**10


def listening_node():
    """As much of a detector as a substitute needs; `heard` is what it has published."""
    node = MagicMock(role="detector", settings=DetectorSettings(), heard=[])
    node.records.patience_ns = PATIENCE_NS
    node.seats = (SimpleNamespace(camera="front", records=node.records),)
    node.get_clock().now().to_msg = Time

    def publisher(kind, topic, profile):
        made = MagicMock(topic_name=topic, msg_type=kind)
        made.get_subscription_count.return_value = 1
        made.publish.side_effect = lambda message: node.heard.append(kind)
        return made

    node.create_publisher = publisher
    return node


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test puts forward."""
    started = SimpleNamespace(now_ns=time.monotonic_ns())
    started.monotonic_ns = lambda: started.now_ns
    for module in (watchdog_substitute, base):
        monkeypatch.setattr(module, "time", started)
    return started


@pytest.fixture
def pair(clock, closed):
    """Two substitutes, and the lease of a watchdog that has died."""
    watchdog = closed(Lease("front", ROLE))
    watchdog.acquire(PATIENCE_NS)
    nodes = listening_node(), listening_node()
    substitutes = [closed(WatchdogSubstitute(node)) for node in nodes]
    watchdog.note.process = 2**30  # no process has this number
    return nodes, substitutes, watchdog


def test_a_voice_that_is_released_for_a_new_watchdog_is_not_taken(pair, clock, closed):
    nodes, (speaker, other), watchdog = pair
    clock.now_ns += 2 * LOOK_NS
    speaker.update(turn=0)
    other.update(turn=1)
    assert Bool in nodes[0].heard
    clock.now_ns += 2 * LOOK_NS
    other.update(turn=1)
    watchdog.note.process, watchdog.note.alive_ns = os.getpid(), clock.now_ns
    clock.now_ns += LOOK_NS // 2
    speaker.fall_silent()
    voice = closed(Lease("front", VOICE))
    voice.note.alive_ns = before = 1  # whoever acquires it gives a sign of life
    other.update(turn=1)
    assert nodes[1].heard == []
    assert not voice.is_taken
    assert voice.note.alive_ns == before, "a new watchdog must not find it taken, however briefly"


def test_a_speaker_says_nothing_after_the_first_sign_of_a_new_watchdog(pair, clock):
    nodes, (speaker, _), watchdog = pair
    for passed_ns in (2 * LOOK_NS, 1, PERIOD_NS - 1):
        clock.now_ns += passed_ns
        speaker.update(turn=0)
    said = len(nodes[0].heard)
    watchdog.note.process, watchdog.note.alive_ns = os.getpid(), clock.now_ns
    clock.now_ns += 1  # it is to speak again, and does not look at the watchdog yet
    speaker.update(turn=0)
    assert len(nodes[0].heard) == said


def test_without_a_descriptor_left_it_speaks_and_falls_silent(pair, clock, monkeypatch):
    nodes, (speaker, _), _ = pair

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    for _ in range(2):
        clock.now_ns += PERIOD_NS
        with monkeypatch.context() as patched:
            for name in ("open", "pidfd_open"):
                patched.setattr(os, name, refuse)
            speaker.update(turn=0)
            speaker.fall_silent()
    assert nodes[0].heard.count(Bool) == 2, "also with the publishers that it made anew"
