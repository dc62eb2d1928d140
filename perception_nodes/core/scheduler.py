"""Which cameras' frames a shared detector infers next, and which of them together.

The earliest deadline comes first. Where not all frames can be in time, frames are admitted as long
as they can be, and that of the camera with the fewest turns comes first. A newer frame that
replaces a waiting one has the same place. Frames that are about to arrive are planned for, because
a call that has begun cannot be interrupted: if a camera's turn has come and its frame is due,
frames that would make it late have to wait.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

ARRIVALS = 9
"""Number of a camera's last frames from which the arrival of its next one is predicted."""
MIN_ARRIVALS = 4
CREDIT = 8
"""Number of turns that a camera may be owed. With more, a camera that comes back after a long
absence would keep the others waiting."""
FOREVER_NS = 1 << 62
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
    """A frame that waits, or is expected at `release_ns`."""

    release_ns: int
    deadline_ns: int
    camera: int


class _Call(NamedTuple):
    """Frames that are inferred together; all would be in time even `slack_ns` later."""

    frames: list[_Frame]
    begin_ns: int
    end_ns: int
    slack_ns: int


class Scheduler:
    """Decides which cameras' frames are inferred next; only a camera's newest frame counts.

    Cameras are numbered from 0.
    """

    def __init__(self, cameras: int) -> None:
        self._turns = [0] * cameras
        self._arrivals_ns = [deque[int](maxlen=ARRIVALS) for _ in range(cameras)]
        self._deadlines_ns = [0] * cameras
        self._waiting: set[int] = set()

    def arrived(self, camera: int, arrived_ns: int, deadline_ns: int) -> None:
        """Note that a frame is ready; it replaces the camera's waiting frame, if there is one.

        Args:
            camera: number of the camera.
            arrived_ns: when the frame became ready.
            deadline_ns: when its detections must be out.
        """
        self._arrivals_ns[camera].append(arrived_ns)
        self._deadlines_ns[camera] = deadline_ns
        self._waiting.add(camera)

    def done(self, camera: int, served: bool) -> None:
        """Note that a camera's waiting frame was inferred (`served`) or abandoned."""
        self._waiting.discard(camera)
        if served:
            owed_from = max(self._turns) - CREDIT
            self._turns[camera] = max(self._turns[camera], owed_from) + 1

    @property
    def waiting(self) -> int:
        """Number of frames that wait."""
        return len(self._waiting)

    def free_until_ns(self, now_ns: int, working_on: int | None = None) -> int:
        """When the next frame is due, as far as that is known; `now_ns` if one waits or is late.

        A camera that is late by more than an interval has stopped. The frame of the camera
        `working_on` does not wait.
        """
        if self._waiting - {working_on}:
            return now_ns
        due_ns = [FOREVER_NS]
        for arrivals_ns in self._arrivals_ns:
            if len(arrivals_ns) >= MIN_ARRIVALS:
                interval_ns = _interval_ns(arrivals_ns)
                if arrivals_ns[-1] + 2 * interval_ns > now_ns:
                    due_ns.append(max(now_ns, arrivals_ns[-1] + interval_ns))
        return min(due_ns)

    def turn(self, now_ns: int, levels: Sequence[Sequence[int]]) -> Turn:
        """Decide what to infer now.

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
        found = (self._frame(camera, now_ns) for camera in range(len(self._turns)))
        frames = [frame for frame in found if frame is not None]
        frames.sort(key=lambda frame: (self._turns[frame.camera], frame.deadline_ns))
        waiting = [frame for frame in frames if frame.camera in self._waiting]
        if not waiting:
            return Turn()
        for frame in waiting:
            if now_ns + levels[-1][0] > frame.deadline_ns:
                return Turn((frame.camera,), frame.deadline_ns)
        plan: list[_Call] = []
        planned = 0
        for costs in levels:
            calls = _plan(frames, now_ns, costs)
            size = sum(len(call.frames) for call in calls)
            if size > planned:
                plan, planned = calls, size
            if planned == len(frames):
                break
        first = plan[0]
        if first.begin_ns > now_ns:
            return Turn(wait_until_ns=first.begin_ns)
        finish_by_ns = first.end_ns + min(call.slack_ns for call in plan)
        return Turn(tuple(frame.camera for frame in first.frames), finish_by_ns)

    def _frame(self, camera: int, now_ns: int) -> _Frame | None:
        """The camera's waiting frame, else the next one if its arrival can be predicted."""
        deadline_ns, arrivals_ns = self._deadlines_ns[camera], self._arrivals_ns[camera]
        if camera in self._waiting:
            return _Frame(now_ns, deadline_ns, camera)
        if len(arrivals_ns) < MIN_ARRIVALS:
            return None
        interval_ns = _interval_ns(arrivals_ns)
        due_ns = arrivals_ns[-1] + interval_ns
        if due_ns <= now_ns:
            due_ns += round(TOLERANCE * interval_ns)
        if due_ns <= now_ns:
            return None
        return _Frame(due_ns, due_ns + deadline_ns - arrivals_ns[-1], camera)


def _interval_ns(arrivals_ns: Sequence[int]) -> int:
    return round(median(b - a for a, b in pairwise(arrivals_ns)))


def _plan(frames: Sequence[_Frame], now_ns: int, costs: Sequence[int]) -> list[_Call]:
    """Calls for all frames if all can be in time, else for those that fit, in order."""
    if plan := _soonest(frames, now_ns, costs):
        return plan
    admitted: list[_Frame] = []
    for frame in frames:
        if larger := _soonest([*admitted, frame], now_ns, costs):
            plan, admitted = larger, [*admitted, frame]
    return plan


def _soonest(frames: Sequence[_Frame], now_ns: int, costs: Sequence[int]) -> list[_Call]:
    """The calls with the smallest sum of ends by which all frames are in time, if any."""
    # Try two orders: waiting frames before expected ones, and the earlier deadline first. If all
    # frames wait, the second succeeds if any order does.
    orders = sorted(frames), sorted(frames, key=lambda frame: frame.deadline_ns)
    found = [calls for order in orders if (calls := _calls(order, now_ns, costs[:1]))]
    if len(costs) > 1:
        # A first call for several may begin when another frame has come.
        starts_ns = {now_ns, *(f.release_ns for f in frames if f.release_ns < now_ns + costs[0])}
        found += [_calls(order, at_ns, costs) for order in orders for at_ns in starts_ns]
    return min(filter(None, found), key=_sum_of_ends_ns, default=[])


def _sum_of_ends_ns(calls: Sequence[_Call]) -> int:
    return sum(call.end_ns * len(call.frames) for call in calls)


def _calls(order: Sequence[_Frame], end_ns: int, costs: Sequence[int]) -> list[_Call]:
    """Calls one after the other from `end_ns` on, for the frames there; empty if one is late."""
    calls: list[_Call] = []
    left = deque(order)
    while left:
        first = left.popleft()
        call, begin_ns, deadline_ns = [first], max(end_ns, first.release_ns), first.deadline_ns
        while left and len(call) < len(costs) and left[0].release_ns <= begin_ns:
            call.append(left.popleft())
            deadline_ns = min(deadline_ns, call[-1].deadline_ns)
        end_ns = begin_ns + costs[len(call) - 1]
        if end_ns > deadline_ns:
            return []
        calls.append(_Call(call, begin_ns, end_ns, deadline_ns - end_ns))
    return calls
