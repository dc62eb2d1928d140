"""Processes that crash and hang under way: detections go on, and nothing is left behind.

How fast is measured by `kills.py` on a quiet machine, and not asserted here but for a bound that
tells a takeover from a restart.
"""

import os
import signal
import time
from itertools import product

import pytest
from kills import Rig, with_graph

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]
RESTART_MS = 3000.0
KILLS = 20
WATCHDOG_KILLS = 4
CALM_S = 0.5
"""A substitute that has not seen the new watchdog yet would be heard within this time."""


def test_a_standby_takes_over() -> None:
    def take_over(rig: Rig, role: str, number: int) -> None:
        rig.wait_for_standby(role)
        victim, standby = rig.members(role)
        assert rig.strike(role, number) < RESTART_MS
        assert rig.leases[role].note.process == standby
        rig.wait_for_standby(role)
        assert victim not in rig.members(role)
        takeover = rig.takeover(role)
        assert takeover.predecessor == victim
        # On a busy machine the supervisor may be the first that ends one that hangs.
        hows = [b"died"] + [b"hung and was killed"] * (number == signal.SIGSTOP)
        assert any(how in takeover.reason for how in hows)
        assert takeover.newest_ns, "the frame that was begun last"
        assert bool(takeover.joined_ns) == (role == "detector"), "who receives slots"

    def scenario(rig: Rig) -> None:
        for role, number in product(("detector", "preprocess"), (signal.SIGKILL, signal.SIGSTOP)):
            take_over(rig, role, number)

    with_graph(scenario, standby="always")


def test_without_standbys_the_dead_are_spoken_for_and_restarted() -> None:
    def scenario(rig: Rig) -> None:
        stops, healths = rig.listen()
        for number in (signal.SIGKILL, signal.SIGSTOP):
            rig.wait_until(lambda: stops and stops[-1] is False)
            watchdog = next(p for s, p in rig.supervisor.processes if s.name == "watchdog_node")
            healths.clear()
            os.kill(watchdog.pid, number)
            rig.wait_until(lambda: stops[-1] is True)
            rig.wait_until(lambda: any("the watchdog is gone" in cause for cause in healths))
        rig.wait_until(lambda: stops[-1] is False)
        (victim,) = rig.members("detector")
        rig.strike("detector", signal.SIGKILL)
        assert rig.takeover("detector").predecessor == victim

    with_graph(scenario, standby="never")


@pytest.mark.slow
def test_killing_again_and_again_leaves_nothing_behind() -> None:
    held = []

    def scenario(rig: Rig) -> None:
        for index in range(KILLS):
            role = ("detector", "preprocess")[index % 2]
            rig.wait_for_standby(role)
            rig.strike(role, signal.SIGKILL)
            if index in (KILLS // 2, KILLS - 1):
                for each in ("detector", "preprocess"):
                    rig.wait_for_standby(each)
                held.append(rig.holds())

    with_graph(scenario, standby="always")
    before, after = held
    for name in before:
        # What the last one left is perhaps not reclaimed yet, no more than that.
        assert after[name] <= before[name] + 10, (before, after)


def test_the_request_of_a_watchdog_that_was_killed_ends_once() -> None:
    def scenario(rig: Rig) -> None:
        stops, _ = rig.listen()
        rig.wait_until(lambda: stops and stops[-1] is False)
        for _ in range(WATCHDOG_KILLS):
            rig.wait_for_standby("detector")
            watchdog = next(p for s, p in rig.supervisor.processes if s.name == "watchdog_node")
            stops.clear()
            os.kill(watchdog.pid, signal.SIGKILL)
            rig.wait_until(lambda: True in stops and stops[-1] is False)
            calm_s = time.monotonic() + CALM_S
            rig.wait_until(lambda at_s=calm_s: time.monotonic() > at_s)
            told = stops[stops.index(True) :]  # before it comes what the dead one has said
            assert told == sorted(told, reverse=True), "no False before the final ones"

    with_graph(scenario, standby="always")
