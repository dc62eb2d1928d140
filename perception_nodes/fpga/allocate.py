"""Addresses of buffers in activation memory; buffers whose lifetimes do not overlap share rows.

An operation that reads its picture once writes its result in place, some lines behind its reading.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.layout import BANKS
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


class InPlace(NamedTuple):
    """A buffer that takes the place of another one.

    Attributes:
        source, target: numbers of the buffers.
        lag: rows by which the target begins before the source.
    """

    source: int
    target: int
    lag: int


def in_place(
    buffers: Sequence[Buffer], operations: Sequence[Operation], times: Sequence[Lifetime]
) -> list[InPlace]:
    """Find the operations that can write in place, in their order.

    The engine writes the results of a tile while it reads later tiles. These need pixels up to
    `top` lines and `left` columns before their own.
    """
    found = []
    for number, operation in enumerate(operations):
        source, target = operation.segments[0], operation.target
        if target is None or len(operation.segments) > 1 or source.upsampled:
            continue
        old, new = buffers[source.buffer], buffers[target.buffer]
        once = operation.stride == 1 and operation.groups == (2 if operation.wide else 1)
        alike = (old.height, old.width, old.groups) == (new.height, new.width, new.groups)
        in_turn = times[source.buffer].last == number == times[target.buffer].first
        if once and alike and in_turn:
            columns = -(-operation.left // BANKS) + 1
            lag = operation.top * old.line_stride + columns * old.groups
            found.append(InPlace(source.buffer, target.buffer, lag))
    return found


def allocate(
    buffers: Sequence[Buffer],
    times: Sequence[Lifetime],
    capacity_rows: int,
    replaced: Sequence[InPlace] = (),
) -> tuple[list[int], int]:
    """Give every buffer an address.

    The problem, dynamic storage allocation, is NP-hard. First fit in a few orders, of which the
    best result is taken, does well on networks (Pisarchyk and Lee 2020, Efficient Memory Management
    for Deep Neural Net Inference).

    Args:
        buffers: buffers to be placed.
        times: lifetime of each buffer.
        capacity_rows: number of rows of the memory.
        replaced: buffers that take the place of others, in the order of time.

    Returns:
        The first row of every buffer, and the total number of rows used.

    Raises:
        BackendError: the buffers do not fit; the text says how many rows are lacking.
    """
    # Buffers that take each other's place are placed as one, and begin at these rows of it.
    chains = {number: [number] for number in range(len(buffers))}
    begins = [0] * len(buffers)
    for source, target, lag in replaced:
        for member in chains[source]:
            begins[member] += lag
        chains[target] = [*chains.pop(source), target]
    blocks = [
        Block(
            max(begins[member] + buffers[member].rows for member in chain),
            Lifetime(times[chain[0]].first, times[chain[-1]].last),
        )
        for chain in chains.values()
    ]
    places, used = min((_first_fit(blocks, order) for order in ORDERS), key=lambda one: one[1])
    if used > capacity_rows:
        largest = max(buffers, key=lambda buffer: buffer.rows)
        raise BackendError(
            f"fpga: the network needs {used} rows of activation memory and the engine has "
            f"{capacity_rows}: {used - capacity_rows} rows of 64 bytes are lacking; the "
            f"largest tensor, {largest.name} ({largest.groups * 16}x{largest.height}x"
            f"{largest.width}), takes {largest.rows}; use a model with a smaller input or fewer "
            "channels"
        )
    for place, chain in zip(places, chains.values(), strict=True):
        for member in chain:
            begins[member] += place
    return begins, used


class Block(NamedTuple):
    """Rows that are taken for a time."""

    rows: int
    time: Lifetime


ORDERS: tuple[Callable[[Block], tuple[int, ...]], ...] = (
    lambda block: (-block.rows, block.time.first),
    lambda block: (-block.rows * (block.time.last - block.time.first + 1),),
    lambda block: (block.time.first, -block.rows),
    lambda block: (block.time.first - block.time.last, -block.rows),
)
"""Sort keys of blocks: large first, large and long-lived first, early first, long-lived first."""


def _first_fit(
    blocks: Sequence[Block], order: Callable[[Block], tuple[int, ...]]
) -> tuple[list[int], int]:
    """The first row of every block, and the number of rows used."""
    places = [0] * len(blocks)
    placed: list[int] = []
    for number in sorted(range(len(blocks)), key=lambda n: order(blocks[n])):
        (rows, time), place = blocks[number], 0
        rivals = [
            n
            for n in placed
            if blocks[n].time.first <= time.last and time.first <= blocks[n].time.last
        ]
        for rival in sorted(rivals, key=lambda n: places[n]):
            if places[rival] - place >= rows:
                break
            place = max(place, places[rival] + blocks[rival].rows)
        places[number] = place
        placed.append(number)
    return places, max(p + block.rows for p, block in zip(places, blocks, strict=True))
