"""Which cameras' frames a shared detector infers next, and which of them together.

While there is time for all frames, the earliest deadline comes first. Otherwise turns are shared by
start-time fair queueing (Goyal, Vin and Cheng 1996): a frame is tagged with the number of turns
that its camera has had, and the lowest tag comes first. A newer frame that replaces a waiting one
inherits its tag. Two things differ from that algorithm. A camera with no frame waiting keeps some
of the turns that it is owed, because between two frames no camera has one waiting. And frames that
are about to arrive are planned for, because a call that has begun cannot be interrupted: if a
camera's turn has come and its frame is due, frames that would make it late have to wait.
"""

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

INTERVALS = 8
"""Number of intervals between a camera's frames from which its next arrival is predicted."""
MIN_INTERVALS = 3
CREDIT = 8
"""Number of turns in a row that a camera may be owed. With more, a camera that comes back after a
long absence would keep the others waiting."""
TOLERANCE = 0.1
"""A frame that is overdue by more than this share of the interval is not waited for."""


class Turn(NamedTuple):
    """What the detector does next.

    Attributes:
        cameras: cameras whose waiting frames are inferred in one call, the most urgent one first;
            empty if it is better to wait.
        finish_by_ns: for a single frame: when its detections must be out so that the frames behind
            it are not late.
        wait_until_ns: if `cameras` is empty: how long to wait unless a frame comes; 0 for any time.
    """

    cameras: tuple[int, ...] = ()
    finish_by_ns: int = 0
    wait_until_ns: int = 0


class _Frame(NamedTuple):
    """A frame that waits, or is expected at `release_ns`; the lowest `tag` comes first."""

    camera: int
    release_ns: int
    deadline_ns: int
    tag: int


class _Plan(NamedTuple):
    """Frames in the order of inference, the size of each call, and the sum of their end times."""

    frames: tuple[_Frame, ...]
    calls: tuple[int, ...]
    total_ns: int


class _Camera:
    """What is known of one camera.

    Attributes:
        waiting_ns: deadline of its waiting frame, None if none waits.
        tag: tag of its first frame since it was served last, None if none has come.
        next_tag: lowest tag that its next frame can get.
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
        """End the camera's turn; returns the tag that was served."""
        assert self.tag is not None
        tag, self.tag = self.tag, None
        self.next_tag = tag + 1
        return tag

    def frame(self, camera: int, now_ns: int, served_tag: int) -> _Frame | None:
        """The camera's waiting frame, or else the one that is expected next."""
        tag = self._tag(served_tag)
        if self.waiting_ns is not None:
            return _Frame(camera, now_ns, self.waiting_ns, tag)
        due_ns = self._due_ns(now_ns)
        return None if due_ns is None else _Frame(camera, due_ns, due_ns + self._life_ns, tag)

    def _tag(self, served_tag: int) -> int:
        return max(served_tag - CREDIT, self.next_tag) if self.tag is None else self.tag

    def _due_ns(self, now_ns: int) -> int | None:
        """When the camera's next frame is expected, None if that cannot be predicted."""
        if len(self._intervals_ns) < MIN_INTERVALS:
            return None
        due_ns = self._arrived_ns + self._interval_ns
        if due_ns > now_ns:
            return due_ns
        latest_ns = due_ns + round(TOLERANCE * self._interval_ns)
        return latest_ns if latest_ns > now_ns else None


class Scheduler:
    """Decides which cameras' frames are inferred next; only a camera's newest frame counts.

    Cameras are numbered from 0.
    """

    def __init__(self, cameras: int) -> None:
        self._cameras = [_Camera() for _ in range(cameras)]
        self._served_tag = 0

    def arrived(self, camera: int, arrived_ns: int, deadline_ns: int) -> None:
        """Note that a frame is ready; it replaces the camera's waiting frame, if there is one.

        Args:
            camera: number of the camera.
            arrived_ns: when the frame became ready.
            deadline_ns: when its detections must be out.
        """
        self._cameras[camera].arrived(arrived_ns, deadline_ns, self._served_tag)

    def done(self, camera: int, served: bool) -> None:
        """Note that a camera's waiting frame was inferred (`served`) or abandoned."""
        state = self._cameras[camera]
        state.waiting_ns = None
        if served:
            self._served_tag = state.served()

    @property
    def waiting(self) -> int:
        """Number of frames that wait."""
        return sum(camera.waiting_ns is not None for camera in self._cameras)

    def turn(self, now_ns: int, levels: Sequence[Sequence[int]]) -> Turn:
        """Decide what to infer now.

        Frames are admitted in the order of their tags, as long as all of them can be in time. Of
        the ways to infer the admitted frames, the one with the smallest sum of end times is taken.
        So frames are inferred together, or waited for, only if that ends sooner than one after the
        other, or if nothing else is in time.

        Args:
            now_ns: CLOCK_MONOTONIC.
            levels: alternative costs, ns, of inferring 1, 2, ... frames at once until their
                detections are out: one level for each model or degree of caution, the best one
                first. The plan is made with the first level by which the most frames are in time; a
                frame that is late by the last level is abandoned. Only the first level may have
                costs of several frames.

        Returns:
            The turn. A frame that can no longer be in time gets a turn of its own;
            `Pipeline.detect` decides whether it is abandoned or tried all the same.
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
    """The first call of a plan, and when it must end so that the rest of the plan is in time."""
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
    """A plan for all frames if they can be in time; else for those that fit, admitted in order."""
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
    """The plan with the smallest sum of end times in which all frames are in time, if there is one.

    Two orders are tried. The first has waiting frames, in their given order, before those that are
    expected. The second is by deadline, which succeeds if any order does, provided that all frames
    wait and all calls cost the same.
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
    """Sizes of calls for frames in this order, all in time, with the smallest sum of end times."""
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
