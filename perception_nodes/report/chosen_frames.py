"""The frames that a report shows, chosen as they are processed, so that only those are kept."""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from perception_nodes.report.changes import Change
from perception_nodes.report.film import Film

SLOWEST = 2
CHANGED = 12
SPREAD = 6
CAPTION_CHANGES = 3


class ChosenFrame(NamedTuple):
    """An annotated frame."""

    caption: str
    jpeg: bytes


_Ranking = list[tuple[float, int, ChosenFrame]]
"""A heap of frames by rank and negative index, so that the earlier of equal frames is better."""


class ChosenFrames:
    """Keeps the slowest, most crowded, evenly spread and most changed frames of a drive.

    Attributes:
        film: all frames, small.
        grey_levels: mean of each frame's picture, 0 to 255, by the frame's index.
    """

    def __init__(self, frame_count: int) -> None:
        """Nothing is chosen yet; `frame_count` is how many frames the drive has."""
        self._next_spread = [frame_count * step // SPREAD for step in range(SPREAD)]
        self.film = Film()
        self.grey_levels: dict[int, float] = {}
        self._spread: dict[int, ChosenFrame] = {}
        self._slowest: _Ranking = []
        self._crowded: _Ranking = []
        self._changed: _Ranking = []

    def take(self, index: int, jpeg: bytes, latency_ms: float | None, objects: int) -> None:
        """Consider a frame; `jpeg` is its picture with the objects drawn in."""
        if latency_ms is not None:
            frame = ChosenFrame(f"frame {index}, among the slowest: {latency_ms:.1f} ms", jpeg)
            _keep(self._slowest, SLOWEST, latency_ms, index, frame)
        frame = ChosenFrame(f"frame {index}, most objects: {objects}", jpeg)
        _keep(self._crowded, 1, objects, index, frame)
        if self._next_spread and index >= self._next_spread[0]:
            self._next_spread = [later for later in self._next_spread if later > index]
            self._spread[index] = ChosenFrame(f"frame {index}", jpeg)

    def wants(self, index: int, changes: int) -> bool:
        """Whether a frame with this number of changes would be kept."""
        full = len(self._changed) >= CHANGED
        return changes > 0 and not (full and (changes, -index) < self._changed[0][:2])

    def take_changed(self, index: int, jpeg: bytes, changes: Sequence[Change]) -> None:
        """Consider a frame that differs from the golden; its picture shows the changes."""
        said = [str(change).partition(": ")[2] for change in changes[:CAPTION_CHANGES]]
        more = len(changes) - len(said)
        caption = f"frame {index}: {'; '.join(said)}" + (f"; {more} more" if more else "")
        _keep(self._changed, CHANGED, len(changes), index, ChosenFrame(caption, jpeg))

    def shown(self) -> list[ChosenFrame]:
        """The slowest, the most crowded and the evenly spread ones, each frame once."""
        found: dict[int, ChosenFrame] = {}
        for _, minus_index, frame in (*sorted(self._slowest, reverse=True), *self._crowded):
            found.setdefault(-minus_index, frame)
        for index, frame in self._spread.items():
            found.setdefault(index, frame)
        return list(found.values())

    def changed(self) -> list[ChosenFrame]:
        """The frames with most changes, worst first."""
        return [frame for *_, frame in sorted(self._changed, reverse=True)]


def _keep(ranking: _Ranking, count: int, rank: float, index: int, frame: ChosenFrame) -> None:
    """Add a frame to the best `count`."""
    heapq.heappush(ranking, (rank, -index, frame))
    if len(ranking) > count:
        heapq.heappop(ranking)
