"""Where buffers lie in activation memory: one takes another's place once that is no longer read."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.lower import Buffer, Operation


class Lifetime(NamedTuple):
    """A buffer's time: numbers of the first operation that writes it and the last that reads it."""

    first: int
    last: int


def lifetimes(buffers: Sequence[Buffer], operations: Sequence[Operation]) -> list[Lifetime]:
    """The time of every buffer; the image's, number 0, begins before the first operation.

    A buffer that is written to its end and read by nobody lives as long as it is written.
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

    The problem is NP-hard (dynamic storage allocation); first fit in a few orders, the best of
    which is kept, does well on networks (Pisarchyk and Lee 2020, Efficient Memory Management for
    Deep Neural Net Inference).

    Args:
        buffers: what is to be placed.
        times: of each.
        capacity_rows: rows there are.

    Returns:
        The first row of every buffer, and the rows that are used in all.

    Raises:
        BackendError: they do not fit; it says how much is lacking.
    """
    found = min((_first_fit(buffers, times, order) for order in ORDERS), key=lambda one: one[1])
    if found[1] > capacity_rows:
        largest = max(buffers, key=lambda buffer: buffer.rows)
        raise BackendError(
            f"fpga: the network needs {found[1]} rows of activation memory and the engine has "
            f"{capacity_rows}: {found[1] - capacity_rows} rows of 64 bytes are lacking; the "
            f"largest tensor, {largest.name} ({largest.groups * 16}x{largest.height}x"
            f"{largest.width}), takes {largest.rows}; take a model with a smaller input or fewer "
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
"""Which buffers are placed first: large ones, large and long-lived ones, early ones, long ones."""


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
