"""Times of networks, each in a process of its runtime: what comes of one that fails."""

import os

import pytest

from perception_nodes.evaluation import screening
from perception_nodes.evaluation.screening import Option, Times, time_in_turns

LIMIT_S = 100.0
NULL = Option("road-xs", "null", 1)


@pytest.fixture(autouse=True)
def few_turns(monkeypatch):
    """Loading may take long on a busy machine; then a few rounds are enough."""
    monkeypatch.setattr(screening, "count", lambda: range(6))
    monkeypatch.setattr(screening, "LONGEST_S", LIMIT_S)
    monkeypatch.setattr(screening, "LOADING_SHARE", 0.9)
    monkeypatch.setattr(screening, "WAITING_SHARE", 0.95)


def timed(*options):
    done: list[int] = []
    found = time_in_turns(options, LIMIT_S, lambda at, total: done.append(at))
    assert done == sorted(done)
    return found


def test_options_take_turns_and_one_that_is_refused_costs_the_others_nothing():
    other = Option("road-n", "null", 1, str(max(os.sched_getaffinity(0))))
    refused = Option("road-xs", "nonesuch", 1)
    before = set(os.listdir("/proc/self/fd"))
    found = timed(refused, NULL, other)
    assert set(os.listdir("/proc/self/fd")) == before
    assert "'nonesuch' is unknown" in found.pop(refused).refused
    assert {len(times.whole_ms) for times in found.values()} == {5}  # behind the one that warms up
    for times in found.values():
        assert not times.refused
        for bare_ms, whole_ms in zip(times.bare_ms, times.whole_ms, strict=True):
            assert 0 <= bare_ms < whole_ms


def test_a_runtime_that_ends_takes_its_own_options_out(monkeypatch):
    turn = screening._Runtime.turn

    def dies(self, *of_a_frame):
        self.process.kill()
        self.process.wait()
        return turn(self, *of_a_frame)

    monkeypatch.setattr(screening._Runtime, "turn", dies)
    assert timed(NULL)[NULL].refused == "null ended, or hung, with road-xs"


def test_ways_that_take_much_longer_are_left_out_of_further_turns():
    fast, slow, other = (Option("road-n", name, 1) for name in ("a", "b", "c"))
    alone = Option("road-s", "b", 1)
    took_ms = {fast: 2.0, slow: 2.7, other: 2.5, alone: 9.0}
    found = {option: Times([ms] * 3) for option, ms in took_ms.items()}
    screening._leave_out_hopeless(list(found), found)
    assert [option for option in found if found[option].refused] == [slow]
    assert found[slow].refused == "2.7 ms, where others take 2.0"
