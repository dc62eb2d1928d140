"""Follows objects through a camera's frames: which detection is which object, and where it is now.

As in ByteTrack (Zhang et al. 2022), detections with low scores prolong tracks but begin none.
Unlike there, time is that of the stamps: frames that are late, skipped or lost only change how sure
the filters are.
"""

import lap
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import MAX_DETECTIONS, STAMP_LIMIT_NS, Detections
from perception_nodes.core.geometry import pairwise_iou
from perception_nodes.tracking import motion
from perception_nodes.tracking.tracks import TrackingSettings, Tracks, TrackState

MAX_TRACKS = 2 * MAX_DETECTIONS
"""Largest number of tracks; beyond it, those that were unseen for longest end."""
MAX_PX = 1e6
"""A box that reaches farther is no box."""
CLOCK_STEP_NS = 1_000_000_000
"""A stamp that is older than the last one by this much is of another clock. If it is less older,
its frame was overtaken, unless others like it follow."""
DEFAULTS = TrackingSettings()
MEMORY = 0.9
"""Share of a class's score that still counts at the next detection."""
ALL_ENDED = ": all tracks have ended"


class Tracker:
    """Follows the objects of one camera.

    Attributes:
        next_id: id of the next track that begins; each is given once.
        reason: what is unusual about the newest frame, or about how long it has been the newest.
    """

    def __init__(
        self, classes: int, settings: TrackingSettings = DEFAULTS, next_id: int = 1
    ) -> None:
        """Nothing is followed yet; `classes` is the number of the model's classes."""
        self.next_id = next_id
        self._settings = settings
        self._max_unseen_ns = round(settings.max_unseen_s * 1e9)
        self._table = np.zeros(
            0,
            [
                ("id", np.uint64),
                ("filter", np.float64, (6, 4)),
                ("votes", np.float64, (classes,)),
                ("score", np.float64),
                ("first_ns", np.int64),
                ("seen_ns", np.int64),
                ("hits", np.uint32),
                ("misses", np.uint32),
            ],
        )
        self._stamp_ns: int | None = None
        self._unused_ns: list[int] = []
        self._gap_ns = self._frames_without = 0
        self.reason = ""

    def take(
        self, stamp_ns: int, detections: Detections, frames_without: int = 0
    ) -> NDArray[np.uint64]:
        """Take in the detections of the next frame.

        Args:
            stamp_ns: the frame's stamp.
            detections: those that are not finite or have no area belong to no track, nor do those
                beyond the best `MAX_DETECTIONS`.
            frames_without: number of frames without detections since the frame before.

        Returns:
            For each detection the id of its track, 0 for none.
        """
        ids = np.zeros(len(detections), np.uint64)
        if not self._advance(stamp_ns, frames_without):
            return ids
        used, boxes = _usable(detections)
        scores, classes = detections.scores[used], detections.classes[used]
        table = self._table
        owners = self._assign(boxes, scores, classes)
        found = np.flatnonzero(owners >= 0)
        rows = owners[found]
        table["misses"] += 1
        table["misses"][rows] = 0
        table["hits"][rows] += 1
        table["seen_ns"][rows] = stamp_ns
        table["score"][rows] = scores[found]
        table["filter"][rows] = motion.corrected(table["filter"][rows], boxes[found])
        table["votes"][rows] *= MEMORY
        table["votes"][rows, classes[found]] += scores[found]
        ids[used[found]] = table["id"][rows]

        begun = np.flatnonzero((owners < 0) & (scores >= self._settings.birth_score))
        born = np.zeros(len(begun), table.dtype)
        born["id"] = np.arange(self.next_id, self.next_id + len(begun), dtype=np.uint64)
        self.next_id += len(begun)
        born["filter"] = motion.born(boxes[begun])
        born["votes"][np.arange(len(begun)), classes[begun]] = scores[begun]
        born["score"] = scores[begun]
        born["first_ns"] = born["seen_ns"] = stamp_ns
        born["hits"] = 1
        ids[used[begun]] = born["id"]

        # An object that was seen once and not again was a false alarm.
        table = np.concatenate([table[(table["hits"] > 1) | (table["misses"] == 0)], born])
        if len(table) > MAX_TRACKS:
            table = np.delete(table, np.argsort(table["seen_ns"], kind="stable")[:-MAX_TRACKS])
        self._table = table
        return ids

    def coast(self, silent_ns: int) -> None:
        """End the tracks that are unseen for too long, now that no frame has come for a time.

        Args:
            silent_ns: how long ago the newest frame was taken in. This is not that frame's age:
                late frames end no track.
        """
        self._end_unseen((self._stamp_ns or 0) + silent_ns)
        self.reason = f"no detections for {silent_ns / 1e9:.2f} s"
        if not len(self._table):
            self.reason += ALL_ENDED

    def at(self, time_ns: int) -> Tracks:
        """All tracks, predicted to a time: that of the newest frame or later."""
        stamp_ns = self._stamp_ns or 0
        time_ns = min(max(time_ns, stamp_ns), STAMP_LIMIT_NS - 1)
        table = self._table
        states = np.where(table["hits"] > 1, TrackState.TRACKED, TrackState.NEW)
        return Tracks(
            time_ns,
            self._gap_ns,
            self._frames_without,
            self.reason,
            table["id"],
            np.where(table["misses"] > 0, TrackState.COASTED, states).astype(np.uint8),
            table["votes"].argmax(axis=1),
            table["score"],
            motion.predicted(table["filter"], (time_ns - stamp_ns) / 1e9),
            (time_ns - table["first_ns"]) / 1e9,
            (time_ns - table["seen_ns"]) / 1e9,
            table["hits"],
            table["misses"],
        )

    def _advance(self, stamp_ns: int, frames_without: int) -> bool:
        """Predict all tracks to a frame's stamp; return whether to take the frame in."""
        last_ns = stamp_ns if self._stamp_ns is None else self._stamp_ns
        passed_ns = stamp_ns - last_ns
        is_first = self._stamp_ns is None
        self._gap_ns, self._frames_without, self.reason = passed_ns, frames_without, ""
        is_old = passed_ns <= 0 and not is_first
        # A single old frame may have been overtaken. The clock was set or stands still if a second
        # old frame is not older than the first, or if a third one comes.
        unused_ns = self._unused_ns
        again = bool(unused_ns) and (unused_ns[-1] <= stamp_ns or len(unused_ns) > 1)
        if passed_ns <= -CLOCK_STEP_NS or (is_old and again):
            self.reason = f"stamps went back by {-passed_ns / 1e9:.2f} s{ALL_ENDED}"
            if not passed_ns:
                self.reason = f"stamps stand still{ALL_ENDED}"
            self._table = self._table[:0]
        elif is_old:
            self._unused_ns.append(stamp_ns)
            self._table["misses"] += 1
            self.reason = (
                f"its stamp is {-passed_ns / 1e6:.1f} ms older than that of the frame before: its "
                "detections are not used"
            )
            return False
        else:
            self._end_unseen(stamp_ns)
            if passed_ns > self._max_unseen_ns:
                self.reason = f"no detections for {passed_ns / 1e9:.2f} s{ALL_ENDED}"
            self._table["filter"] = motion.predicted(self._table["filter"], passed_ns / 1e9)
        self._stamp_ns = stamp_ns
        self._unused_ns.clear()
        return True

    def _end_unseen(self, time_ns: int) -> None:
        self._table = self._table[time_ns - self._table["seen_ns"] <= self._max_unseen_ns]

    def _assign(
        self, boxes: NDArray[np.float64], scores: NDArray[np.float32], classes: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The row of each detection's track, -1 for none; detections with good scores first."""
        settings, table = self._settings, self._table
        owners = np.full(len(boxes), -1)
        if not len(table) or not len(boxes):
            return owners
        known = motion.corners(table["filter"][:, motion.BOX])
        overlap = pairwise_iou(known, motion.corners(boxes))
        overlap -= settings.other_class * (table["votes"].argmax(axis=1)[:, None] != classes)
        sure = scores >= settings.sure_score
        free = np.ones(len(table), bool)
        for group in (sure, ~sure):
            rows, columns = np.flatnonzero(free), np.flatnonzero(group)
            if len(rows) and len(columns):
                found = _best(overlap[np.ix_(rows, columns)], settings.min_overlap)
                matched = found >= 0
                owners[columns[matched]] = rows[found[matched]]
                free[rows[found[matched]]] = False
        return owners


def _best(overlap: NDArray[np.float64], least: float) -> NDArray[np.int64]:
    """Pair rows with columns so that the sum of overlaps is greatest.

    Returns:
        The row of each column; -1 where no overlap of at least `least` is left.
    """
    _, _, rows = lap.lapjv(1 - overlap, extend_cost=True, cost_limit=1 - least)
    return np.asarray(rows, np.int64)


def _usable(detections: Detections) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which detections can belong to tracks, and their boxes: centre x, centre y, width, height."""
    corners = detections.boxes.astype(np.float64)
    low, high = corners[:, :2], corners[:, 2:]
    boxes = np.concatenate([(low + high) / 2, high - low], axis=1)
    # A comparison with NaN is false.
    good = (np.abs(corners).max(axis=1) < MAX_PX) & (boxes[:, 2:].min(axis=1) > 0)
    used = np.flatnonzero(good & (detections.scores > 0))
    if len(used) > MAX_DETECTIONS:
        best = np.argsort(-detections.scores[used], kind="stable")[:MAX_DETECTIONS]
        used = np.sort(used[best])
    return used, boxes[used]
