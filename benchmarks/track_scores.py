"""How good tracks are: HOTA, IDF1 and switches by TrackEval, and the error of predictions."""

import contextlib
import io
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tracked_drives import Boxes, TrackedDrive
from trackeval.metrics import CLEAR, HOTA, Identity

from perception_nodes.core.geometry import pairwise_iou
from perception_nodes.core.statistics import MEDIAN_AND_P99, percentiles
from perception_nodes.tracking import motion
from perception_nodes.tracking.tracker import Tracker
from perception_nodes.tracking.tracks import Tracks, TrackState

SAME_IOU = 0.5


def evaluate_tracks(drive: TrackedDrive) -> dict[str, Any]:
    """Follow the objects of a drive and compare them with the truth.

    Returns:
        `hota`, `idf1` (percent), `switches`; `ms`, processor time a frame (p50, p99); and for a
        drive whose truth is known at any time `error_px`, the median distance of the centres from
        where the objects are at the time of publication: of `predicted` tracks, of tracks as of
        the `capture`, and of the bare `detections`; and `within_2_sigma`, the share of predicted
        coordinates within two standard deviations of the truth, 0.95 where these are right.
    """
    classes = 1 + max((int(f.detections.classes.max(initial=0)) for f in drive.frames), default=0)
    tracker = Tracker(classes)
    ids: list[NDArray[np.int64]] = []
    similar: list[NDArray[np.float64]] = []
    spent_ms: list[float] = []
    errors: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    within: list[NDArray[np.bool_]] = []
    for frame in drive.frames:
        begin_ns = time.thread_time_ns()
        tracker.take(frame.stamp_ns, frame.detections, frame.frames_without)
        published = tracker.at(frame.published_ns)
        spent_ms.append((time.thread_time_ns() - begin_ns) / 1e6)
        then = tracker.at(frame.stamp_ns)
        sure = then.states == TrackState.TRACKED
        ids.append(then.ids[sure].astype(np.int64))
        similar.append(pairwise_iou(frame.boxes, then.boxes[sure]))
        if drive.truth_at is None:
            continue
        true = drive.truth_at(frame.ids, frame.published_ns)
        rows, columns = _pairs(similar[-1])
        for name, boxes in (("predicted", published.boxes[sure]), ("capture", then.boxes[sure])):
            errors[name].append(_distances(true[rows], boxes[columns]))
        within.append(_within(published, sure, true[rows], columns))
        found = frame.detections.boxes.astype(np.float64)
        rows, columns = _pairs(pairwise_iou(frame.boxes, found))
        errors["detections"].append(_distances(true[rows], found[columns]))
    result = _scores([frame.ids for frame in drive.frames], ids, similar)
    result["ms"] = percentiles(spent_ms, MEDIAN_AND_P99)
    if within:
        result["error_px"] = {
            name: round(float(np.median(np.concatenate(all_px))), 3)
            for name, all_px in errors.items()
        }
        result["within_2_sigma"] = round(float(np.concatenate(within).mean()), 3)
    return result


def _pairs(overlap: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns that are each other's best, of the same object."""
    if not overlap.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    best = overlap.argmax(axis=1)
    rows = np.flatnonzero(
        (overlap.max(axis=1) >= SAME_IOU)
        & (overlap[:, best].argmax(axis=0) == np.arange(len(best)))
    )
    return rows, best[rows]


def _distances(true: Boxes, boxes: Boxes) -> NDArray[np.float64]:
    """Distances between the centres."""
    apart = (true[:, :2] + true[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    distances: NDArray[np.float64] = np.hypot(apart[:, 0], apart[:, 1])
    return distances


def _within(
    tracks: Tracks, sure: NDArray[np.bool_], true: Boxes, columns: NDArray[np.int64]
) -> NDArray[np.bool_]:
    filters = tracks.filters[sure][columns]
    centre_size = np.concatenate(
        [(true[:, :2] + true[:, 2:]) / 2, true[:, 2:] - true[:, :2]], axis=1
    )
    apart = np.abs(centre_size - filters[:, motion.BOX])
    inside: NDArray[np.bool_] = apart <= 2 * np.sqrt(filters[:, motion.BOX_VARIANCE])
    return inside


def _scores(
    truth_ids: Sequence[NDArray[np.int64]],
    track_ids: Sequence[NDArray[np.int64]],
    similar: Sequence[NDArray[np.float64]],
) -> dict[str, Any]:
    (truth, objects), (tracks, identities) = _numbered(truth_ids), _numbered(track_ids)
    data = {
        "gt_ids": truth,
        "tracker_ids": tracks,
        "similarity_scores": similar,
        "num_gt_ids": objects,
        "num_tracker_ids": identities,
        "num_gt_dets": sum(map(len, truth)),
        "num_tracker_dets": sum(map(len, tracks)),
        "num_timesteps": len(truth),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its settings and how long it took
        hota = HOTA().eval_sequence(data)
        identity, clear = (kind().eval_sequence(data) for kind in (Identity, CLEAR))
    return {
        "hota": round(100 * float(np.mean(hota["HOTA"])), 2),
        "idf1": round(100 * float(identity["IDF1"]), 2),
        "switches": int(clear["IDSW"]),
    }


def _numbered(ids: Sequence[NDArray[np.int64]]) -> tuple[list[NDArray[np.int64]], int]:
    """The ids as numbers from 0 without gaps, and how many there are."""
    numbers: dict[int, int] = {}
    numbered = [
        np.array([numbers.setdefault(one, len(numbers)) for one in frame.tolist()], np.int64)
        for frame in ids
    ]
    return numbered, len(numbers)
