"""Messages of several segments, merged into the order of their log times."""

import heapq
from collections.abc import Callable, Iterable

from perception_nodes.drives.bag_file import Messages, Segment

MAX_OPEN_BYTES = 256 << 20
"""Segments that overlap in time are open together, up to this size."""


def in_log_time_order(segments: Iterable[Segment], on_disorder: Callable[[], None]) -> Messages:
    """The messages of all segments, oldest first; equal log times keep the order of the segments.

    This is a k-way merge that opens a segment only when all messages logged before its start have
    been delivered. If more than `MAX_OPEN_BYTES` of segments would have to be open at once, no
    further one is opened, and the oldest message at hand is delivered. If an older one follows,
    `on_disorder` is called.
    """
    heap: list[tuple[int, int, str, bytes, Messages]] = []
    open_bytes, last_ns = 0, -1
    ordered = sorted(segments, key=lambda segment: segment.start_ns)

    def advance(number: int, messages: Messages) -> bool:
        if (following := next(messages, None)) is not None:
            log_time_ns, topic, data = following
            heapq.heappush(heap, (log_time_ns, number, topic, data, messages))
        return following is not None

    for number in range(len(ordered) + 1):
        segment = ordered[number] if number < len(ordered) else None
        while heap and (
            segment is None or heap[0][0] <= segment.start_ns or open_bytes > MAX_OPEN_BYTES
        ):
            log_time_ns, source, topic, data, messages = heapq.heappop(heap)
            if log_time_ns < last_ns:
                on_disorder()
            last_ns = log_time_ns
            yield log_time_ns, topic, data
            if not advance(source, messages):
                open_bytes -= ordered[source].size
        if segment is not None and advance(number, segment.read()):
            open_bytes += segment.size
