"""The frames that a report shows, chosen while they pass: memory holds the chosen ones alone."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from perception_nodes.report.changes import Change

SLOWEST = 2
CHANGED = 12
SPREAD = 6
CAPTION_CHANGES = 3


class Shot(NamedTuple):
    """An annotated frame."""

    caption: str
    jpeg: bytes


@dataclass(order=True)
class _Ranked:
    """A frame by how much it should be shown; of equals the first one."""

    rank: float
    minus_index: int
    shot: Shot = field(compare=False)


class Shots:
    """The slowest frames, the most crowded, some evenly spread, the most changed."""

    def __init__(self, frame_count: int) -> None:
        """Spread over so many frames."""
        last = max(frame_count - 1, 0)
        self._planned = {last * step // max(SPREAD - 1, 1) for step in range(SPREAD)}
        self._spread: dict[int, Shot] = {}
        self._slowest: list[_Ranked] = []
        self._crowded: list[_Ranked] = []
        self._changed: list[_Ranked] = []

    def take(self, index: int, jpeg: bytes, latency_ms: float | None, objects: int) -> None:
        """See a frame with its objects drawn in."""
        if latency_ms is not None:
            shot = Shot(f"frame {index}, among the slowest: {latency_ms:.1f} ms", jpeg)
            _keep(self._slowest, SLOWEST, _Ranked(latency_ms, -index, shot))
        shot = Shot(f"frame {index}, most objects: {objects}", jpeg)
        _keep(self._crowded, 1, _Ranked(objects, -index, shot))
        if index in self._planned:
            self._spread[index] = Shot(f"frame {index}", jpeg)

    def wants(self, index: int, changes: int) -> bool:
        """Whether a frame with so many changes would be kept."""
        full = len(self._changed) >= CHANGED
        return changes > 0 and not (
            full and (changes, -index) < (self._changed[0].rank, self._changed[0].minus_index)
        )

    def take_changed(self, index: int, jpeg: bytes, changes: Sequence[Change]) -> None:
        """See a frame with its changes drawn in."""
        said = [str(change).partition(": ")[2] for change in changes[:CAPTION_CHANGES]]
        more = len(changes) - len(said)
        caption = f"frame {index}: {'; '.join(said)}" + (f"; {more} more" if more else "")
        _keep(self._changed, CHANGED, _Ranked(len(changes), -index, Shot(caption, jpeg)))

    def shown(self) -> list[Shot]:
        """Slowest, most crowded and spread ones; a frame is shown once."""
        found: dict[int, Shot] = {}
        for ranked in (*sorted(self._slowest, reverse=True), *self._crowded):
            found.setdefault(-ranked.minus_index, ranked.shot)
        for index, shot in self._spread.items():
            found.setdefault(index, shot)
        return list(found.values())

    def changed(self) -> list[Shot]:
        """The most changed ones, worst first."""
        return [ranked.shot for ranked in sorted(self._changed, reverse=True)]


def _keep(ranking: list[_Ranked], count: int, one: _Ranked) -> None:
    """Add to a heap of the best."""
    if len(ranking) < count:
        heapq.heappush(ranking, one)
    else:
        heapq.heappushpop(ranking, one)
