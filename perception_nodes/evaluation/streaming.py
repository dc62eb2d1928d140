"""What a planner holds at each instant of a drive, and how old it is, for streaming accuracy.

Li, Wang and Ramanan, Towards Streaming Perception, ECCV 2020: at the instant of a frame, its truth
is compared with the newest result that is out by then, of whichever frame that is. So what is late,
skipped or lost needs no rule of its own: the planner holds something older.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from perception_nodes.core.statistics import MEDIAN_AND_P99, latency_percentiles


def held_at(instants_ns: Sequence[int], published_ns: Mapping[int, int]) -> list[int | None]:
    """The newest frame whose detections are published at each instant or before it.

    Args:
        instants_ns: the instants, nanoseconds.
        published_ns: when detections were published, by their frame's stamp, both on the same axis.

    Returns:
        The frame's stamp; None where nothing is published yet.
    """
    by_time = sorted((at_ns, stamp_ns) for stamp_ns, at_ns in published_ns.items())
    times_ns = [at_ns for at_ns, _ in by_time]
    # A planner does not go back to an older frame that is published after a newer one.
    newest: list[int | None] = [None, *accumulate((stamp_ns for _, stamp_ns in by_time), max)]
    return [newest[bisect_right(times_ns, at_ns)] for at_ns in instants_ns]


def staleness_ms(
    instants_ns: Sequence[int], held_ns: Sequence[int | None]
) -> dict[str, float | None]:
    """How old the frame is that is held: `p50` and `p99` of the instants that hold one."""
    both = zip(instants_ns, held_ns, strict=True)
    ages_ms = [(at_ns - stamp_ns) / 1e6 for at_ns, stamp_ns in both if stamp_ns is not None]
    return latency_percentiles(ages_ms, MEDIAN_AND_P99)
