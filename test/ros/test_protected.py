"""The protected topics of a running graph, judged by consumers in Python and in C++.

    .venv/bin/python test/ros/test_protected.py

prints what each made of faults on the way, and how soon.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from cpp_listener import PACKAGE, Line, Listener, build, why_not
from kills import with_graph
from own_domain import own_domain
from perception_interfaces.msg import Protected

from perception_nodes.core.health import HealthMode
from perception_nodes.nodes.consumed_topic import ConsumedTopic
from perception_nodes.protection.consumer import Consumer, Content, State, Verdict
from perception_nodes.protection.profile import data_id, open_protected, protect

pytestmark = [pytest.mark.ros, pytest.mark.skipif(bool(why_not()), reason=why_not())]
TOPIC, RELAYED = "/perception/detections/protected", "/relayed"
DEADLINE_MS = 190.0
"""Enough for a machine that runs tests, and less than consumers take for another clock."""
DEPTH = 100
"""The relay must lose nothing by itself."""
SETTLED = 5
"""Messages in a row that must be right before a fault and after it."""
MS = 1_000_000


class Way:
    """Collects messages, passes on what a fault makes of them, and then each that comes."""

    def __init__(self, count, fault):
        self._count, self._fault = count, fault
        self._held: list[bytes] = []
        self.over = count == 0

    def __call__(self, message):
        if self.over:
            return [message]
        self._held.append(message)
        self.over = len(self._held) == self._count
        return self._fault(self._held) if self.over else []


class DelayedWay:
    """Holds messages back until there are `count`, and then passes on two for each that comes."""

    def __init__(self, count):
        self._count = count
        self._held: list[bytes] = []
        self._flows = self.over = False

    def __call__(self, message):
        if self.over:
            return [message]
        self._held.append(message)
        self._flows = self._flows or len(self._held) == self._count
        passed = self._held[: 2 * self._flows]
        del self._held[: len(passed)]
        self.over = self._flows and not self._held
        return passed


def lost(held):
    return []


def altered(held):
    (message,) = held
    return [message[:-5] + bytes([message[-5] ^ 4]) + message[-4:]]


def of_another_topic(held):
    return [_anew(held, topic="/perception/rear/detections/protected")]


def of_another_sender(held):
    return [_anew(held, other_sender=1)]


def by_another_clock(held):
    return [_anew(held, ahead_ns=400 * MS)]


def _anew(held, topic=TOPIC, other_sender=0, ahead_ns=0):
    opened = open_protected(held[0], data_id(TOPIC))
    assert not isinstance(opened, str)
    identity = data_id(topic, opened.sender ^ other_sender)
    return protect(opened.data, identity, opened.counter, opened.deadline_ns + ahead_ns)


WAYS = {
    "dropped": Way(3, lost),
    "repeated": Way(1, lambda held: held * 2),
    "reordered": Way(2, lambda held: held[::-1]),
    "altered": Way(1, altered),
    "of another topic": Way(1, of_another_topic),
    "of another sender": Way(1, of_another_sender),
    "by another clock": Way(1, by_another_clock),
    "delayed": DelayedWay(15),
    "cut off": Way(40, lost),
}
"""At 50 Hz: a message is delayed by up to 0.3 s, and there is no way for 0.8 s."""
FOUND = {
    "dropped": [(State.LOST, 3)],
    "repeated": [(State.REPEATED, 0)],
    "reordered": [(State.LOST, 1), (State.REPEATED, 0)],
    "altered": [(State.WRONG, 0), (State.LOST, 1)],
    "of another topic": [(State.WRONG, 0), (State.LOST, 1)],
    "of another sender": [(State.WRONG, 0), (State.LOST, 1)],
    "by another clock": [(State.WRONG, 0), (State.LOST, 1)],
    "cut off": [(State.LOST, 40)],
}
KILLED = ("detector", "watchdog")


class Reaction(NamedTuple):
    """What the consumers found from the begin of a fault until they had settled again."""

    begin_ns: int
    python: list[Line]
    cpp: list[Line]

    def after_ms(self, wanted):
        """How soon each of them found this for the first time."""
        return [
            next(((one.at_ns - self.begin_ns) / MS for one in heard if wanted(one)), None)
            for heard in (self.python, self.cpp)
        ]


def messages(heard):
    """Those that are about a message."""
    return [one for one in heard if one.state not in (State.NOTHING_NEW, State.SILENT)]


def faulty(heard):
    """States and losses but for messages that are right."""
    return [(one.state, one.lost) for one in messages(heard) if one.state is not State.OK]


def but_for_lateness(heard):
    """The same on a machine that is fast enough: what is late is right, or tells of a loss."""
    told = [
        (State.LOST if lost else State.OK, lost) if state is State.LATE else (state, lost)
        for state, lost in faulty(heard)
    ]
    return [one for one in told if one[0] is not State.OK]


class Bench:
    """A relay that disturbs the way of detections, and consumers behind it."""

    def __init__(self, rig, program):
        self.rig = rig
        rig.listen()
        node = rig.node
        self._publisher = node.create_publisher(Protected, RELAYED, DEPTH)
        node.create_subscription(Protected, TOPIC, self._on_message, DEPTH, raw=True)
        node.create_subscription(Protected, RELAYED, self._on_relayed, DEPTH, raw=True)
        self._consumer = Consumer(TOPIC)
        node.create_timer(0.01, lambda: self._hear(self._consumer.check()))
        self.python: list[Line] = []
        self._listener = Listener(program, RELAYED, TOPIC, Content.OBJECTS)
        self.verdicts: dict[Content, list[Verdict]] = {Content.HEALTH: [], Content.SAFE_STOP: []}
        self.topics = [
            ConsumedTopic(node, f"/perception/{name}", self.verdicts[content].append, content)
            for name, content in (("health", Content.HEALTH), ("safe_stop", Content.SAFE_STOP))
        ]
        self.way = Way(0, lost)

    def close(self):
        assert self._listener.close() is None

    def settle(self):
        """Until both consumers have found messages right for a while."""
        since_ns = time.monotonic_ns()

        def settled():
            for heard in (self.python[-500:], self._listener.lines[-500:]):
                last = messages(heard)[-SETTLED:]
                if [one.state for one in last] != [State.OK] * SETTLED or last[0].at_ns < since_ns:
                    return False
            return True

        self.rig.wait_until(settled, look_s=0.005)

    def disturb(self, way):
        """Put a fault on the way; what came of it until all was well again."""
        self.settle()
        return self.meanwhile(lambda: setattr(self, "way", way), lambda: way.over)

    def kill(self, name):
        """Kill a node; there are detections again when another one has been started."""
        self.settle()
        processes = self.rig.supervisor.processes
        victim = next(p.pid for s, p in processes if s.name == f"{name}_node")
        count = len(self.verdicts[Content.HEALTH])

        def over():
            modes = [verdict.mode for verdict in self.verdicts[Content.HEALTH][count:]]
            alive = victim not in [p.pid for _, p in processes if p.poll() is None]
            return alive and HealthMode.UNSAFE in modes and modes[-1] < HealthMode.UNSAFE

        return self.meanwhile(lambda: os.kill(victim, signal.SIGKILL), over)

    def meanwhile(self, act, over):
        begin = len(self.python), len(self._listener.lines)
        begin_ns = time.monotonic_ns()
        act()
        self.rig.wait_until(over, look_s=0.005)
        self.settle()
        return Reaction(begin_ns, self.python[begin[0] :], self._listener.lines[begin[1] :])

    def _on_message(self, message):
        for one in self.way(message):
            self._publisher.publish(one)

    def _on_relayed(self, message):
        self._hear(self._consumer.check(message))

    def _hear(self, verdict):
        state, mode, silent_ms, lost, message, reason = verdict
        size = len(message or b"")
        self.python.append(Line(time.monotonic_ns(), state, mode, silent_ms, lost, size, reason))


def react(folder):
    """Put all faults into one graph."""
    found: dict[str, Reaction] = {}
    told: dict[Content, list[Verdict]] = {}

    def scenario(rig):
        bench = Bench(rig, build(folder))
        with (folder / "planner").open("wb") as said:
            words = [sys.executable, "-u", str(PACKAGE / "example/planner.py")]
            planner = subprocess.Popen(words, stdout=said)
        try:
            for name, way in WAYS.items():
                found[name] = bench.disturb(way)
            for name in KILLED:
                found[f"{name} killed"] = bench.kill(name)
            told.update(bench.verdicts)
        finally:
            bench.close()
            planner.terminate()
            planner.wait()

    with_graph(scenario, deadline_ms=DEADLINE_MS, standby="never")
    return found, told


@pytest.fixture(scope="module")
def reactions(tmp_path_factory):
    with contextmanager(own_domain)():
        folder = tmp_path_factory.mktemp("cpp")
        found, told = react(folder)
    return found, told, (folder / "planner").read_text().splitlines()


@pytest.mark.parametrize("name", FOUND)
def test_both_consumers_find_what_happened_on_the_way(reactions, name):
    reaction = reactions[0][name]
    assert but_for_lateness(reaction.python) == FOUND[name]
    assert but_for_lateness(reaction.cpp) == FOUND[name]


def test_messages_that_were_held_back_are_late_and_none_is_lost(reactions):
    reaction = reactions[0]["delayed"]
    for heard in (reaction.python, reaction.cpp):
        found = faulty(heard)
        assert set(found) == {(State.LATE, 0)} and len(found) > 3


def test_silence_is_told_and_is_unsafe_in_the_end(reactions):
    for name in ("cut off", "detector killed"):
        after_ms = reactions[0][name].after_ms(lambda one: one.state is State.SILENT)
        assert all(ms is not None and ms > 200 for ms in after_ms)
    after_ms = reactions[0]["cut off"].after_ms(lambda one: one.mode is HealthMode.UNSAFE)
    assert all(ms is not None and ms > 450 for ms in after_ms)


@pytest.mark.parametrize("name", KILLED)
def test_a_successor_goes_on_counting(reactions, name):
    reaction = reactions[0][f"{name} killed"]
    for heard in (reaction.python, reaction.cpp):
        assert {state for state, _ in faulty(heard)} <= {State.LOST, State.LATE}
        # Its first messages went out before anybody had discovered it: they are lost, and known.
        assert sum(lost for _, lost in faulty(heard)) < 500


@pytest.mark.parametrize("content", [Content.HEALTH, Content.SAFE_STOP])
def test_states_of_the_graph_come_through_whoever_tells_them(reactions, content):
    verdicts = reactions[1][content]
    assert {one.state for one in verdicts} <= {State.OK, State.LOST, State.LATE}
    assert {HealthMode.NOMINAL, HealthMode.UNSAFE} <= {one.mode for one in verdicts}


def test_the_planner_of_the_example_gets_objects_and_modes(reactions):
    lines = reactions[2]
    assert any(line.startswith("OK: ") and line.endswith(" bytes of objects") for line in lines)
    modes = [line for line in lines if line.startswith("mode ")]
    assert "mode UNSAFE" in modes[modes.index("mode NOMINAL") :], "it begins with UNSAFE"


def main():
    with tempfile.TemporaryDirectory() as folder:
        found, told = react(Path(folder))
    for name, reaction in found.items():
        print(f"{name}:")
        for language, heard in (("Python", reaction.python), ("C++", reaction.cpp)):
            states = ", ".join(f"{state.name} {lost}" for state, lost in faulty(heard))
            print(f"  {language}: {states or 'nothing'}")
        for what, wanted in (
            ("a message not OK", lambda one: one.state not in (State.OK, State.NOTHING_NEW)),
            ("UNSAFE", lambda one: one.mode is HealthMode.UNSAFE),
        ):
            times = [f"{ms:.0f}" for ms in reaction.after_ms(wanted) if ms is not None]
            print(f"  {what} after {' and '.join(times) or '–'} ms")
    for content, verdicts in told.items():
        wrong = [f"{one.state.name} {one.lost}" for one in verdicts if one.state is not State.OK]
        print(f"{content.name}: {len(verdicts)} messages, {', '.join(wrong) or 'all OK'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
