"""A model of how long a program takes, computed from the sizes of its operations.

The model follows tiles instead of single cycles. A tile enters the array vector by vector, once for
each step, and is then drained, which takes one cycle for each block and vector; for an output of
the network, as many cycles as there are beats to write. Two tiles are in progress at a time: while
one is drained, the next one enters. A step takes at least as long as its word of weights takes to
arrive.
"""

from collections.abc import Iterator, Sequence

from perception_nodes.core.counters import LayerEstimate
from perception_nodes.fpga.layout import BEAT_BYTES, LANES, PARAMETER_BYTES, SMALLEST_TILE
from perception_nodes.fpga.lower import Operation
from perception_nodes.fpga.program import Geometry, pixel_beats

WEIGHT_SHARE = 2
"""Cycles that a step should take for each beat of its weights, which leaves half of the memory's
bandwidth to others."""
BEGIN = 7
"""Cycles from the last vector of an operation to the first one of the next."""
ARRAY = 16
"""Cycles from a vector's entry to its sum."""
BETWEEN = 2
"""Cycles from the drain of one tile to that of the next one."""
WRITE = 45
"""Cycles from the last read of an accumulator to the code in activation memory."""
START = 160
"""Cycles from the start of a frame to the first word of the image."""
AHEAD = 512
"""Beats of weights that are prefetched before the image is read."""


def vectors(operation: Operation, geometry: Geometry) -> int:
    """Number of vectors in an operation's result; the last one of a line may be partly empty."""
    return operation.out_height * -(-operation.out_width // geometry.pixels(operation.wide))


def steps(operation: Operation) -> int:
    """Number of words of weights for a tile."""
    _, height, width, channels = operation.weight.shape
    return int(height * width * channels // LANES)


def word_beats(operation: Operation) -> int:
    """Number of beats in a word of weights."""
    return (2 if operation.wide else 1) * LANES * LANES // BEAT_BYTES


def tile_of(operation: Operation, geometry: Geometry) -> int:
    """Vectors in a tile: few, since the last tile is waited for; enough to hide the weights."""
    total = vectors(operation, geometry)
    tiles = max(total // (WEIGHT_SHARE * word_beats(operation)), 1)
    tiles = max(tiles, -(-total // geometry.tile))
    return max(-(-total // tiles), SMALLEST_TILE)


def program_costs(
    operations: Sequence[Operation], waits: Sequence[bool], geometry: Geometry
) -> Iterator[LayerEstimate]:
    """The expected cost of each operation.

    Args:
        operations: operations in the order of execution.
        waits: for each one, whether it waits for the results of the one before.
        geometry: geometry of the engine.
    """
    # The cycle in which the array becomes free; and for the last two tiles, the older one first,
    # the cycles in which the drain has read and written them.
    now = 0
    read, written = [0, 0], [0, 0]
    begins = []
    for operation, wait in zip(operations, waits, strict=True):
        total, tile = vectors(operation, geometry), tile_of(operation, geometry)
        count, beats = steps(operation), word_beats(operation)
        sizes = [tile] * (total // tile) + [total % tile] * (total % tile > 0)
        # With stride 2, two of the four pixels of a narrow vector are in the same bank.
        halves = 2 if geometry.blocks > 2 and not operation.wide and operation.stride == 2 else 1
        beats_written = 1 if operation.target else min(pixel_beats(operation.channels), 4)
        now = max(now + BEGIN, written[1] if wait else written[0])
        begins.append(now)
        for size in sizes * (operation.groups // (2 if operation.wide else 1)):
            now = max(now, read[0]) + count * max(halves * size, beats)
            drained = max(now + ARRAY, read[1]) + BETWEEN + geometry.blocks * size * beats_written
            read, written = [read[1], drained], [written[1], drained + WRITE]
    ends = [*begins[1:], written[1]]
    for operation, begin, end in zip(operations, begins, ends, strict=True):
        yield _cost(operation, geometry, end - begin)


def load_cost(width: int, height: int, name: str) -> LayerEstimate:
    """The expected cost of a LOAD descriptor: the image arrives at one beat per cycle."""
    size = width * height * 3
    return LayerEstimate(
        name=name,
        mode="load",
        channels="3",
        size=f"{width}x{height}",
        kernel="",
        macs=0,
        cycles=START + AHEAD + size // BEAT_BYTES,
        bytes_read=size,
        bytes_written=0,
        utilisation=0.0,
    )


def _cost(operation: Operation, geometry: Geometry, cycles: int) -> LayerEstimate:
    layer = operation.layer
    out, height, width, channels = operation.weight.shape
    real = operation.channels
    pixels = operation.out_height * operation.out_width
    macs = pixels * real * operation.products
    tiles = -(-vectors(operation, geometry) // tile_of(operation, geometry))
    weight_bytes = out * height * width * channels
    return LayerEstimate(
        name=layer.name,
        mode="wide" if operation.wide else "narrow",
        channels=f"{layer.weight.shape[1]} -> {real}",
        size=f"{operation.out_width}x{operation.out_height}",
        kernel=f"{height}x{width}" + (f"/{layer.stride}" if layer.stride > 1 else ""),
        macs=macs,
        cycles=cycles,
        bytes_read=weight_bytes * tiles + out // LANES * PARAMETER_BYTES,
        bytes_written=0 if operation.target else pixel_beats(real) * BEAT_BYTES * pixels,
        utilisation=macs / (cycles * geometry.blocks * LANES * LANES),
    )
