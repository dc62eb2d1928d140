"""Whose frame is inferred next where several cameras share a detector, and which ones together.

Earliest deadline first while there is time for all. Where there is not, turns are shared by
start-time fair queueing (Goyal, Vin and Cheng 1996): a camera's frame is tagged with the turns that
the camera has had, and keeps that tag however many newer ones take its place; the lowest tag comes
first. Unlike there, a camera with no frame waiting keeps some of what it is owed, since between two
frames none ever does. Frames that are about to come count too, since a call that has begun cannot
be interrupted: where a camera's turn has come and its frame is due, others wait that would make it
late.
"""

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

INTERVALS = 8
"""Intervals between a camera's frames that are looked back on to know when the next one is due."""
MIN_INTERVALS = 3
CREDIT = 8
"""Turns that a camera which has had fewer than others may have before them. More would let one that
was gone for long keep the others waiting."""
TOLERANCE = 0.1
"""A frame that is overdue by a larger share of the interval is not waited for."""


class Turn(NamedTuple):
    """What to do now.

    Attributes:
        cameras: whose waiting frames to infer, in one call, the most urgent one first; none where
            it is better to wait.
        finish_by_ns: for a single frame: its detections should be out by then, or others behind
            it will be late.
        wait_until_ns: without cameras: how long to wait unless a frame comes; 0 for any time.
    """

    cameras: tuple[int, ...] = ()
    finish_by_ns: int = 0
    wait_until_ns: int = 0


class _Frame(NamedTuple):
    """A frame that waits, or is due at `release_ns`; `tag` says when it is its camera's turn."""

    camera: int
    release_ns: int
    deadline_ns: int
    tag: int


class _Plan(NamedTuple):
    """Frames in the order of inferring them, how many in each call, and the sum of their ends."""

    frames: tuple[_Frame, ...]
    calls: tuple[int, ...]
    total_ns: int


class _Camera:
    """What is known of one camera.

    Attributes:
        waiting_ns: deadline of its waiting frame, None where none waits.
        tag: of its first frame since it was served last, None where none has come.
        next_tag: the lowest that its next one can have.
    """

    def __init__(self) -> None:
        self.waiting_ns: int | None = None
        self.tag: int | None = None
        self.next_tag = 0
        self._intervals_ns: deque[int] = deque(maxlen=INTERVALS)
        self._interval_ns = 0
        self._arrived_ns = 0
        self._life_ns = 0

    def arrived(self, arrived_ns: int, deadline_ns: int, served_tag: int) -> None:
        if self._arrived_ns:
            self._intervals_ns.append(arrived_ns - self._arrived_ns)
            self._interval_ns = round(median(self._intervals_ns))
        self._arrived_ns, self._life_ns = arrived_ns, deadline_ns - arrived_ns
        self.waiting_ns = deadline_ns
        self.tag = self._tag(served_tag)

    def served(self) -> int:
        """Its turn is over; gives the tag that it had."""
        assert self.tag is not None
        tag, self.tag = self.tag, None
        self.next_tag = tag + 1
        return tag

    def frame(self, camera: int, now_ns: int, served_tag: int) -> _Frame | None:
        """Its waiting frame, or the one that is due."""
        tag = self._tag(served_tag)
        if self.waiting_ns is not None:
            return _Frame(camera, now_ns, self.waiting_ns, tag)
        due_ns = self._due_ns(now_ns)
        return None if due_ns is None else _Frame(camera, due_ns, due_ns + self._life_ns, tag)

    def _tag(self, served_tag: int) -> int:
        return max(served_tag - CREDIT, self.next_tag) if self.tag is None else self.tag

    def _due_ns(self, now_ns: int) -> int | None:
        """When its next frame can be counted on, None where that cannot be known."""
        if len(self._intervals_ns) < MIN_INTERVALS:
            return None
        due_ns = self._arrived_ns + self._interval_ns
        if due_ns > now_ns:
            return due_ns
        latest_ns = due_ns + round(TOLERANCE * self._interval_ns)
        return latest_ns if latest_ns > now_ns else None


class Scheduler:
    """Decides on turns; it knows of each camera's newest frame alone, as those who wait do."""

    def __init__(self, cameras: int) -> None:
        """No frame has come yet; cameras are numbered from 0."""
        self._cameras = [_Camera() for _ in range(cameras)]
        self._served_tag = 0

    def arrived(self, camera: int, arrived_ns: int, deadline_ns: int) -> None:
        """A frame is ready to be inferred; the one that waited before it, if any, is let go.

        Args:
            camera: its number.
            arrived_ns: when the frame became ready.
            deadline_ns: when its detections must be out.
        """
        self._cameras[camera].arrived(arrived_ns, deadline_ns, self._served_tag)

    def done(self, camera: int, served: bool) -> None:
        """The waiting frame of a camera waits no longer: it was inferred, or abandoned."""
        known = self._cameras[camera]
        known.waiting_ns = None
        if served:
            self._served_tag = known.served()

    @property
    def waiting(self) -> int:
        """How many frames wait."""
        return sum(camera.waiting_ns is not None for camera in self._cameras)

    def turn(self, now_ns: int, levels: Sequence[Sequence[int]]) -> Turn:
        """Decide.

        The frames that can all be in time are found in the order of their tags; among
        the ways of inferring them the one is taken in which they are done soonest in sum. So frames
        are put together, or waited for, only where that is sooner than one after the other, or
        where it alone is in time.

        Args:
            now_ns: CLOCK_MONOTONIC.
            levels: what inferring 1, 2, ... frames at once will cost until their detections are
                out, by the caution or by the model that it is reckoned with, ns. The first level
                that serves as many frames as any is the one that counts; a frame that is late by
                the last one is abandoned. Only the first one may have more than one cost.

        Returns:
            The turn. A frame that cannot be in time any more is a turn of its own: whether it is
            abandoned or tried all the same is decided by `Pipeline.detect`.
        """
        frames = [
            frame
            for number, camera in enumerate(self._cameras)
            if (frame := camera.frame(number, now_ns, self._served_tag)) is not None
        ]
        frames.sort(key=lambda frame: (frame.tag, frame.deadline_ns))
        waiting = [frame for frame in frames if frame.release_ns <= now_ns]
        if not waiting:
            return Turn()
        for frame in waiting:
            if now_ns + levels[-1][0] > frame.deadline_ns:
                return Turn((frame.camera,), frame.deadline_ns)
        chosen, chosen_costs = _Plan((), (), 0), levels[0]
        for costs in levels:
            plan = _largest_plan(frames, now_ns, costs)
            if len(plan.frames) > len(chosen.frames):
                chosen, chosen_costs = plan, costs
            if len(plan.frames) == len(frames):
                break
        return _first_turn(chosen, now_ns, chosen_costs)


def _first_turn(plan: _Plan, now_ns: int, costs: Sequence[int]) -> Turn:
    """What the plan begins with, and how long that may take for the sake of the rest."""
    slack_ns, end_ns, position, ends = None, now_ns, 0, []
    for size in plan.calls:
        call = plan.frames[position : position + size]
        start_ns = max(end_ns, *(frame.release_ns for frame in call))
        if not position and start_ns > now_ns:
            return Turn(wait_until_ns=start_ns)
        end_ns = start_ns + costs[size - 1]
        ends.append(end_ns)
        if position:
            call_slack_ns = min(frame.deadline_ns for frame in call) - end_ns
            slack_ns = call_slack_ns if slack_ns is None else min(slack_ns, call_slack_ns)
        position += size
    first = plan.frames[: plan.calls[0]]
    finish_by_ns = min(frame.deadline_ns for frame in first)
    if slack_ns is not None:
        finish_by_ns = min(finish_by_ns, ends[0] + slack_ns)
    return Turn(tuple(frame.camera for frame in first), finish_by_ns)


def _largest_plan(frames: Sequence[_Frame], now_ns: int, costs: Sequence[int]) -> _Plan:
    """All frames if they can be in time; else those that can, asked in order."""
    plan = _plan_in_time(frames, now_ns, costs)
    if plan is not None:
        return plan
    plan = _Plan((), (), 0)
    admitted: list[_Frame] = []
    for frame in frames:
        larger = _plan_in_time([*admitted, frame], now_ns, costs)
        if larger is not None:
            plan = larger
            admitted.append(frame)
    return plan


def _plan_in_time(frames: Sequence[_Frame], now_ns: int, costs: Sequence[int]) -> _Plan | None:
    """The soonest way to infer all frames in time.

    Those that wait first, in their order, if that will do; else by deadline, which is the order
    that will do if any does, of frames that all wait and of calls that cost the same.
    """
    for order in (
        sorted(frames, key=lambda frame: frame.release_ns),
        sorted(frames, key=lambda frame: frame.deadline_ns),
    ):
        found = _soonest(order, now_ns, costs)
        if found is not None:
            return _Plan(tuple(order), *found)
    return None


def _soonest(
    order: Sequence[_Frame], now_ns: int, costs: Sequence[int]
) -> tuple[tuple[int, ...], int] | None:
    """Sizes of calls that infer frames in this order, all in time, at the least sum of ends."""
    if not order:
        return (), 0
    best: tuple[tuple[int, ...], int] | None = None
    start_ns, deadline_ns = now_ns, order[0].deadline_ns
    for size, (frame, cost_ns) in enumerate(zip(order, costs, strict=False), 1):
        start_ns = max(start_ns, frame.release_ns)
        deadline_ns = min(deadline_ns, frame.deadline_ns)
        end_ns = start_ns + cost_ns
        if end_ns > deadline_ns:
            continue
        rest = _soonest(order[size:], end_ns, costs)
        if rest is not None:
            total_ns = size * end_ns + rest[1]
            if best is None or total_ns < best[1]:
                best = (size, *rest[0]), total_ns
    return best
