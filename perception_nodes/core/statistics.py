"""The facts of a run: what became of its frames, and how long they took."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception_nodes.core.budget import STAGES
from perception_nodes.core.frame import CROWDED, IN_TIME, PUBLISHED, STAMPS, FrameStatus

MEDIAN_AND_P99: Mapping[str, float] = {"p50": 50, "p99": 99}
LATENCY_RANKS: Mapping[str, float] = {**MEDIAN_AND_P99, "p99_9": 99.9, "max": 100}


def summarize(reports: Iterable[Any]) -> dict[str, Any]:
    """Sum up the frame reports of a run.

    Latency is taken over all frames; one that was not published counts as slower than all others.
    Each stage is taken over the frames that went through it, copies over the frames that were
    preprocessed.

    Args:
        reports: objects with the attributes of `perception_interfaces/FrameReport`.

    Returns:
        Facts that JSON can hold: `frames_in`, `status` (count by name, they add up to
        `frames_in`), `models` (published frames by model), `detections`, `crowded` (frames some of
        whose objects are missing), `latency_ms`, `stages_ms`, `miss_rate`, `copies_per_frame`
        and `failures` (count by reason). A figure that no frame contributes to is None, and so is a
        percentile of the latency that falls on a frame that was not published.
    """
    statuses: Counter[FrameStatus] = Counter()
    models: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    stamps, copies, detections, crowded = [], [], 0, 0
    for report in reports:
        status = FrameStatus(report.status)
        statuses[status] += 1
        if status in PUBLISHED:
            models[as_text(report.model)] += 1
        if status == FrameStatus.FAILED:
            failures[as_text(report.reason)] += 1
        stamps.append([getattr(report, name) for name in STAMPS])
        detections += report.detections
        crowded += CROWDED.decode() in as_text(report.reason)
        if report.preprocessed_ns:
            copies.append(report.copies)

    times_ns = np.array(stamps, np.int64).reshape(-1, len(STAMPS))
    frames_in = len(times_ns)
    missed = frames_in - sum(statuses[status] for status in IN_TIME)
    latencies_ms = _durations_ms(times_ns, 0, -1)
    return {
        "frames_in": frames_in,
        "status": {status.name: statuses[status] for status in FrameStatus},
        "models": dict(models.most_common()),
        "detections": int(detections),
        "crowded": crowded,
        "latency_ms": latency_percentiles(latencies_ms, without=frames_in - len(latencies_ms)),
        "stages_ms": {
            stage: latency_percentiles(_durations_ms(times_ns, i, i + 1), MEDIAN_AND_P99)
            for i, stage in enumerate(STAGES)
        },
        "miss_rate": round(missed / frames_in, 6) if frames_in else None,
        "copies_per_frame": round(float(np.mean(copies)), 3) if copies else None,
        "failures": dict(failures.most_common()),
    }


def percentiles(values: ArrayLike, ranks: Mapping[str, float]) -> dict[str, float]:
    """Percentiles by name, interpolated linearly between the two nearest values.

    Args:
        values: at least one.
        ranks: the percentiles to take, 0 to 100, by their names.

    Returns:
        Rounded to five decimals, which is 10 ns of a value in milliseconds.
    """
    taken = np.percentile(np.asarray(values, np.float64), list(ranks.values()))
    return {name: round(float(value), 5) for name, value in zip(ranks, taken, strict=True)}


def latency_percentiles(
    latencies_ms: ArrayLike, ranks: Mapping[str, float] = LATENCY_RANKS, without: int = 0
) -> dict[str, float | None]:
    """`percentiles` of latencies.

    Args:
        latencies_ms: of the frames that have one.
        ranks: as for `percentiles`, by default p50, p99, p99_9 and max.
        without: number of frames that never came: they count as slower than all others.

    Returns:
        None for a rank that falls on a frame without a latency, or where there is no frame.
    """
    found = np.asarray(latencies_ms, np.float64)
    if not len(found):
        return dict.fromkeys(ranks)
    # The values that stand for frames that never came are in none of the ranks taken.
    filled = np.append(found, np.full(without, found.max()))
    last = {name: np.ceil(rank * (len(filled) - 1) / 100) for name, rank in ranks.items()}
    return {
        name: value if last[name] < len(found) else None
        for name, value in percentiles(filled, ranks).items()
    }


def mean_difference(
    values: NDArray[np.float64], weights: NDArray[np.float64], draws: int = 2000
) -> tuple[float, float]:
    """95 % interval of how much larger one weighted mean is than another, over the same units.

    The units, such as drives, are drawn again with replacement, both values of each together; the
    interval is between percentiles 2.5 and 97.5 of the differences: Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13. With few units it is too narrow.

    Args:
        values: float64 [n, 2], before and after, of at least one unit.
        weights: float64 [n, 2], positive.
        draws: number of bootstrap samples.
    """
    units = len(values)
    drawn = np.random.default_rng(0).multinomial(units, np.full(units, 1 / units), size=draws)
    means = drawn @ (values * weights) / (drawn @ weights)
    low, high = np.percentile(means[:, 1] - means[:, 0], [2.5, 97.5]).tolist()
    return low, high


def _durations_ms(times_ns: NDArray[np.int64], start: int, end: int) -> NDArray[np.float64]:
    """Milliseconds between two stamps, of the frames that have both."""
    both = (times_ns[:, start] != 0) & (times_ns[:, end] != 0)
    durations_ms: NDArray[np.float64] = (times_ns[both, end] - times_ns[both, start]) / 1e6
    return durations_ms


def as_text(reason: str | bytes) -> str:
    """The reason as text; a message has text, a record in shared memory bytes."""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else reason
