"""Turns of several cameras, against every possible schedule."""

import itertools

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


class TestTurns:
    def test_without_a_frame_there_is_nothing_to_do(self):
        assert scheduler(None, None).turn(0, [[3]]) == Turn()

    def test_the_earliest_deadline_comes_first(self):
        made = scheduler(30, 20, 25)
        order = []
        while (turn := made.turn(0, [[3]])).cameras:
            order += turn.cameras
            made.done(turn.cameras[0], served=True)
        assert order == [1, 2, 0]

    def test_frames_are_inferred_together_where_that_is_sooner_for_most(self):
        assert scheduler(20, 20).turn(0, [[10, 12]]).cameras == (0, 1)

    def test_and_one_after_the_other_where_it_is_not(self):
        assert scheduler(20, 20).turn(0, [[10, 16]]).cameras == (0,)

    def test_but_together_where_that_alone_is_in_time(self):
        assert scheduler(18, 18).turn(0, [[10, 16]]).cameras == (0, 1)

    def test_never_where_the_oldest_would_be_late(self):
        made = scheduler(11, 40)
        assert made.turn(0, [[10, 12]]).cameras == (0,)

    def test_never_where_it_costs_more_than_one_after_the_other(self):
        assert scheduler(30, 30).turn(0, [[10, 21]]).cameras == (0,)

    def test_a_frame_due_at_once_is_waited_for_where_that_is_sooner(self):
        made = Scheduler(2)
        periodic(made, 1, life=50)
        made.arrived(0, 499, 549)
        assert made.turn(499, [[10, 11]]) == Turn(wait_until_ns=500)
        made.arrived(1, 500, 550)
        assert made.turn(500, [[10, 11]]).cameras == (0, 1)

    def test_but_not_beyond_the_slack_of_the_one_that_waits(self):
        made = Scheduler(2)
        periodic(made, 1, life=50)
        made.arrived(0, 499, 511)
        assert made.turn(499, [[10, 12]]).cameras == (0,)

    def test_nor_for_long(self):
        made = Scheduler(2)
        periodic(made, 1, life=50)
        made.arrived(0, 490, 590)
        assert made.turn(490, [[10, 11]]).cameras == (0,)

    def test_a_camera_that_is_gone_is_not_waited_for(self):
        made = Scheduler(2)
        periodic(made, 1, life=50)
        made.arrived(0, 515, 565)
        assert made.turn(515, [[10, 11]]).cameras == (0,)

    def test_a_frame_that_will_be_late_is_a_turn_of_its_own(self):
        assert scheduler(9, 30).turn(0, [[10, 12], [10]]).cameras == (0,)

    def test_a_frame_that_would_be_late_by_caution_alone_is_tried(self):
        made = scheduler(9, None)
        assert made.turn(0, [[10, 12], [8]]).cameras == (0,)
        made.done(0, served=True)
        assert made.turn(0, [[10, 12], [8]]) == Turn()

    def test_caution_does_not_keep_anyone_waiting(self):
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

    def test_who_has_gone_without_comes_first(self):
        made = scheduler(10, 11)
        assert made.turn(0, [[8]]).cameras == (0,)
        made.done(0, served=True)
        made.done(1, served=False)
        made.arrived(0, 20, 30)
        made.arrived(1, 20, 31)
        assert made.turn(20, [[8]]).cameras == (1,)

    def test_a_newer_frame_has_the_turn_of_the_one_it_took_the_place_of(self):
        made = scheduler(29, 30)
        assert made.turn(0, [[8]]).cameras == (0,)
        made.done(0, served=True)
        made.arrived(0, 8, 37)
        made.arrived(1, 8, 38)
        assert made.turn(8, [[8]]).cameras == (1,)

    def test_others_behind_limit_how_long_a_frame_may_take(self):
        made = scheduler(20, 24)
        assert made.turn(0, [[8]]) == Turn((0,), 16)
        assert scheduler(20, None).turn(0, [[8]]) == Turn((0,), 20)

    def test_a_smaller_model_serves_more_frames(self):
        made = scheduler(10, 10)
        assert made.turn(0, [[8], [3], [2]]) == Turn((0,), 7)
        assert scheduler(16, 16).turn(0, [[8], [3], [2]]) == Turn((0,), 8)


def compositions(total):
    """All ways to write a number as a sum, in order."""
    if not total:
        yield ()
    for first in range(1, total + 1):
        yield from ((first, *rest) for rest in compositions(total - first))


def ends_of(deadlines, order, sizes, costs):
    """End of each frame of an order, in calls of these sizes; None if one is late."""
    at, ends, position = 0, [], 0
    for size in sizes:
        if size > len(costs):
            return None
        at += costs[size - 1]
        if at > min(deadlines[frame] for frame in order[position : position + size]):
            return None
        ends += [at] * size
        position += size
    return ends


def schedules(deadlines, costs):
    """Ends of every schedule that is in time: all orders, all sizes of calls."""
    for order in itertools.permutations(range(len(deadlines))):
        for sizes in compositions(len(deadlines)):
            ends = ends_of(deadlines, order, sizes, costs)
            if ends is not None:
                yield ends


@st.composite
def waiting_frames(draw):
    deadlines = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    single = draw(st.integers(1, 20))
    extra = draw(st.lists(st.integers(0, 12), max_size=3))
    return deadlines, list(itertools.accumulate([single, *extra]))


class TestOracle:
    @given(waiting_frames())
    @settings(max_examples=300)
    def test_all_are_in_time_where_any_schedule_has_them_so_and_soonest_in_sum(self, case):
        deadlines, costs = case
        best = min(map(sum, schedules(deadlines, costs)), default=None)
        made, at, ends, late = scheduler(*deadlines), 0, [], False
        while turn := made.turn(at, [costs]).cameras:
            at += costs[len(turn) - 1]
            late |= at > min(deadlines[camera] for camera in turn)
            ends += [at] * len(turn)
            for camera in turn:
                made.done(camera, served=True)
        assert len(ends) == len(deadlines)
        assert late == (best is None)
        if best is not None:
            assert sum(ends) == best

    @given(waiting_frames(), st.randoms(use_true_random=False))
    @settings(max_examples=200)
    def test_what_cameras_are_owed_costs_no_frame(self, case, random):
        """Whatever happened before: if all frames can be in time, they are."""
        deadlines, costs = case
        made = Scheduler(len(deadlines))
        for camera in range(len(deadlines)):
            made.arrived(camera, -100, -random.randint(1, 99))
        for camera, deadline in enumerate(deadlines):
            made.arrived(camera, 0, deadline)
        possible, at, late = next(schedules(deadlines, costs), None) is not None, 0, False
        while turn := made.turn(at, [costs]).cameras:
            at += costs[len(turn) - 1]
            late |= at > min(deadlines[camera] for camera in turn)
            for camera in turn:
                made.done(camera, served=True)
        assert late != possible
