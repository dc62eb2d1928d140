"""Addresses of buffers in activation memory; buffers whose lifetimes do not overlap share rows."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.lower import Buffer, Operation


class Lifetime(NamedTuple):
    """Numbers of the first operation that writes a buffer and of the last one that reads it."""

    first: int
    last: int


def lifetimes(buffers: Sequence[Buffer], operations: Sequence[Operation]) -> list[Lifetime]:
    """The lifetime of every buffer; that of the image, number 0, begins before the first operation.

    The lifetime of a buffer that nothing reads ends with the last operation that writes it.
    """
    touched: list[list[int]] = [[-1], *([] for _ in buffers[1:])]
    for number, operation in enumerate(operations):
        for buffer in operation.buffers_read():
            touched[buffer].append(number)
        if operation.target is not None:
            touched[operation.target.buffer].append(number)
    return [Lifetime(min(numbers), max(numbers)) for numbers in touched]


def allocate(
    buffers: Sequence[Buffer], times: Sequence[Lifetime], capacity_rows: int
) -> tuple[list[int], int]:
    """Give every buffer an address.

    The problem, dynamic storage allocation, is NP-hard. First fit in a few orders, of which the
    best result is taken, does well on networks (Pisarchyk and Lee 2020, Efficient Memory Management
    for Deep Neural Net Inference).

    Args:
        buffers: buffers to be placed.
        times: lifetime of each buffer.
        capacity_rows: number of rows of the memory.

    Returns:
        The first row of every buffer, and the total number of rows used.

    Raises:
        BackendError: the buffers do not fit; the text says how many rows are lacking.
    """
    found = min((_first_fit(buffers, times, order) for order in ORDERS), key=lambda one: one[1])
    if found[1] > capacity_rows:
        largest = max(buffers, key=lambda buffer: buffer.rows)
        raise BackendError(
            f"fpga: the network needs {found[1]} rows of activation memory and the engine has "
            f"{capacity_rows}: {found[1] - capacity_rows} rows of 64 bytes are lacking; the "
            f"largest tensor, {largest.name} ({largest.groups * 16}x{largest.height}x"
            f"{largest.width}), takes {largest.rows}; use a model with a smaller input or fewer "
            "channels"
        )
    return found


Order = Callable[[Buffer, Lifetime], tuple[int, ...]]
ORDERS: tuple[Order, ...] = (
    lambda buffer, time: (-buffer.rows, time.first),
    lambda buffer, time: (-buffer.rows * (time.last - time.first + 1),),
    lambda buffer, time: (time.first, -buffer.rows),
    lambda buffer, time: (time.first - time.last, -buffer.rows),
)
"""Sort keys of buffers: large first, large and long-lived first, early first, long-lived first."""


def _first_fit(
    buffers: Sequence[Buffer], times: Sequence[Lifetime], order: Order
) -> tuple[list[int], int]:
    bases = [0] * len(buffers)
    placed: list[int] = []
    for number in sorted(range(len(buffers)), key=lambda n: order(buffers[n], times[n])):
        time, base = times[number], 0
        rivals = [n for n in placed if times[n].first <= time.last and time.first <= times[n].last]
        for rival in sorted(rivals, key=lambda n: bases[n]):
            if bases[rival] - base >= buffers[number].rows:
                break
            base = max(base, bases[rival] + buffers[rival].rows)
        bases[number] = base
        placed.append(number)
    return bases, max(bases[n] + buffers[n].rows for n in range(len(buffers)))
