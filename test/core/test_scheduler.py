"""Turns of several cameras, against every possible order."""

import itertools
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception_nodes.core.scheduler import Scheduler, Turn


def scheduler(*deadlines, now=0):
    """A scheduler with a frame of each camera waiting since `now`, None for one without."""
    made = Scheduler(len(deadlines))
    for camera, deadline in enumerate(deadlines):
        if deadline is not None:
            made.arrived(camera, now, deadline)
    return made


def periodic(made, camera, life):
    """A camera that has sent a frame each 100 ns until 400, each of which was served."""
    for at in range(0, 401, 100):
        made.arrived(camera, at, at + life)
        made.done(camera, served=True)


def test_the_detector_is_free_until_a_frame_is_due():
    made = Scheduler(2)
    periodic(made, 0, 90)
    periodic(made, 1, 90)
    times = {450: 500, 499: 500, 530: 530, 599: 530 + 69}
    assert {now: made.free_until_ns(now) for now in times} == times
    assert made.free_until_ns(600) > 10**9  # both have stopped
    made.arrived(0, 610, 700)
    assert made.free_until_ns(650) == 650


def test_without_a_frame_there_is_nothing_to_do():
    assert scheduler(None, None).turn(0, [[3]]) == Turn()


@pytest.mark.parametrize(
    ("deadlines", "levels", "turn"),
    [
        ((20, 20), [[10, 12]], (0, 1)),
        ((20, 20), [[10, 16]], (0,)),
        ((18, 18), [[10, 16]], (0, 1)),
        ((11, 40), [[10, 12]], (0,)),
        ((30, 30), [[10, 21]], (0,)),
        ((9, 30), [[10, 12], [10]], (0,)),
        ((9, None), [[10, 12], [8]], (0,)),
    ],
    ids=[
        "together where that is sooner for most",
        "one after the other where it is not",
        "together where that alone is in time",
        "never where the oldest would be late",
        "never where it costs more than one after the other",
        "one that will be late has a turn of its own",
        "one that would be late by caution alone is tried",
    ],
)
def test_which_frames_are_inferred_next(deadlines, levels, turn):
    assert scheduler(*deadlines).turn(0, levels).cameras == turn


@pytest.mark.parametrize(
    ("deadlines", "levels", "finish_by_ns"),
    [
        ((20, 24), [[8]], 16),
        ((20, None), [[8]], 20),
        ((10, 10), [[8], [3], [2]], 7),
        ((16, 16), [[8], [3], [2]], 8),
    ],
)
def test_others_behind_limit_how_long_a_frame_may_take(deadlines, levels, finish_by_ns):
    assert scheduler(*deadlines).turn(0, levels) == Turn((0,), finish_by_ns)


@pytest.mark.parametrize(
    ("now", "deadline", "costs", "turn"),
    [
        (499, 549, [10, 11], Turn(wait_until_ns=500)),
        (499, 511, [10, 12], Turn((0,), 511)),
        (490, 590, [10, 11], Turn((0,), 540)),
        (515, 565, [10, 11], Turn((0,), 565)),
    ],
    ids=["due at once", "without slack", "due later", "overdue: the camera is gone"],
)
def test_a_frame_that_is_due_is_waited_for_where_one_call_for_both_is_sooner(
    now, deadline, costs, turn
):
    made = Scheduler(2)
    periodic(made, 1, life=50)
    made.arrived(0, now, deadline)
    assert made.turn(now, [costs]) == turn


def test_caution_does_not_keep_anyone_waiting():
    """By its 99th percentile, the call would make the other camera's frame late."""
    made = Scheduler(2)
    periodic(made, 1, life=20)
    periodic(made, 0, life=20)
    made.arrived(1, 500, 520)
    made.done(1, served=False)
    made.arrived(0, 510, 530)
    made.done(0, served=True)
    made.arrived(0, 595, 615)
    assert made.turn(595, [[14]]) == Turn(wait_until_ns=600)
    assert made.turn(595, [[14], [5]]).cameras == (0,)


@pytest.mark.parametrize("replaced", [False, True])
def test_who_has_had_fewer_turns_comes_first_where_there_is_no_time_for_all(replaced):
    made = scheduler(10, 11)
    assert made.turn(0, [[8]]).cameras == (0,)
    made.done(0, served=True)
    if not replaced:
        made.done(1, served=False)
    made.arrived(0, 20, 30)
    made.arrived(1, 20, 31)
    assert made.turn(20, [[8]]).cameras == (1,)


@st.composite
def waiting_frames(draw):
    deadlines = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    single = draw(st.integers(1, 20))
    extra = draw(st.lists(st.integers(0, 12), max_size=3))
    return deadlines, list(itertools.accumulate([single, *extra]))


@given(waiting_frames(), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_all_are_in_time_where_any_order_has_them_so(case, random):
    """Whatever cameras are owed, and whether or not several are inferred together."""
    deadlines, costs = case
    ends = list(itertools.accumulate(costs[:1] * len(deadlines)))
    orders = itertools.permutations(deadlines)
    possible = any(all(map(operator.le, ends, order)) for order in orders)
    made = Scheduler(len(deadlines))
    for camera in range(len(deadlines)):
        made.arrived(camera, -100, -50)
        made.done(camera, served=random.random() < 0.5)
    for camera, deadline in enumerate(deadlines):
        made.arrived(camera, 0, deadline)
    at, late, served = 0, False, []
    while turn := made.turn(at, [costs]).cameras:
        at += costs[len(turn) - 1]
        late |= at > min(deadlines[camera] for camera in turn)
        served += turn
        for camera in turn:
            made.done(camera, served=True)
    assert sorted(served) == list(range(len(deadlines)))
    assert not (possible and late)
    assert late or possible or len(costs) > 1
    if len(costs) == 1 and possible:
        assert served == sorted(served, key=lambda camera: deadlines[camera])
