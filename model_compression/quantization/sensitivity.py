"""Which convolutions suffer from 8 bits, and which to keep float until the accuracy is right.

A convolution's cost is measured by rounding *it alone* (its weights; and apart, what it stores) in
an otherwise float network. The other way round, keeping it alone float in a rounded network, would
measure a small difference of two large, noisy numbers: every change shifts all later roundings,
and that hides the convolution's own part.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from rich.table import Table

from model_compression.errors import CompressionError
from model_compression.quantization.divergence import divergence
from model_compression.quantization.emit import rewrite
from model_compression.quantization.ranges import Frames, open_float
from model_compression.quantization.table import RangeTable
from perception_nodes.core.inference import Progress


@dataclass(frozen=True)
class LayerCost:
    """What rounding one convolution changes at the outputs.

    Attributes:
        name: of the convolution.
        weights: divergence from the float network when its weights alone are rounded, in nats an
            object (see ``divergence``).
        activation: the same when what it stores alone is rounded; 0 for an output.
    """

    name: str
    weights: float
    activation: float


def sensitivity(
    model: onnx.ModelProto,
    table: RangeTable,
    frames: Frames,
    threads: int = 2,
    progress: Progress = lambda done, total: None,
) -> list[LayerCost]:
    """Measure what each convolution costs.

    Args:
        model: the float graph.
        table: its table of ranges.
        frames: a few are enough, but they should show objects; uint8 [height, width, 3] BGR.
        threads: for the network.
        progress: called with convolutions done and in all.

    Returns:
        The convolutions, that with the costliest weights first.

    Raises:
        CompressionError: the table is not the model's.
    """
    layout = table.check(model)
    images = [frame for _, frame in frames]
    run = open_float(model, layout.outputs, threads)
    reference = [run(image) for image in images]

    def cost(amax: dict[str, float], convolutions: set[str]) -> float:
        changed = rewrite(model, layout, amax, convolutions, table.weight_bits)
        run = open_float(changed, layout.outputs, threads)
        return float(
            np.mean([divergence(r, run(i)) for r, i in zip(reference, images, strict=True)])
        )

    amax = table.amax
    costs = []
    for number, block in enumerate(layout.blocks, 1):
        stored = block.output in amax
        activation = cost({block.output: amax[block.output]}, set()) if stored else 0.0
        costs.append(LayerCost(block.name, cost({}, {block.name}), activation))
        progress(number, len(layout.blocks))
    return sorted(costs, key=lambda layer: layer.weights, reverse=True)


def cost_table(costs: list[LayerCost], most: int = 12) -> Table:
    """Show the costliest convolutions; costs in thousandths of a nat an object."""
    table = Table("convolution", "weights", "stored", title="Cost of 8 bits (mnat an object)")
    for column in table.columns[1:]:
        column.justify = "right"
    for layer in costs[:most]:
        table.add_row(layer.name, f"{1e3 * layer.weights:.3f}", f"{1e3 * layer.activation:.3f}")
    rest = costs[most:]
    if rest:
        weights, stored = (
            sum(values)
            for values in zip(*((layer.weights, layer.activation) for layer in rest), strict=True)
        )
        name = f"{len(rest)} others together"
        table.add_row(name, f"{1e3 * weights:.3f}", f"{1e3 * stored:.3f}")
    return table


def fallback(
    table: RangeTable,
    costs: list[LayerCost],
    accuracy: Callable[[RangeTable], float],
    wanted: float,
    most: int = 8,
) -> RangeTable:
    """Keep the costliest convolutions' weights float, one more at a time, until it is enough.

    Args:
        table: the model's table of ranges.
        costs: what ``sensitivity`` measured.
        accuracy: measures the model with a table; more is better.
        wanted: the least accuracy that is accepted.
        most: convolutions that may be kept float.

    Returns:
        The table, with the fewest convolutions kept float that reach what is wanted.

    Raises:
        CompressionError: even the most are not enough.
    """
    order = [layer.name for layer in costs if layer.name not in table.float_convolutions]
    reached = []
    for count in range(min(most, len(order)) + 1):
        kept = (*table.float_convolutions, *order[:count])
        tried = table.model_copy(update={"float_convolutions": kept})
        reached.append(accuracy(tried))
        if reached[-1] >= wanted:
            return tried
    raise CompressionError(
        f"with {len(reached) - 1} convolutions kept float {table.model!r} reaches an accuracy of "
        f"{max(reached):.4f}, {wanted:.4f} are wanted; train it for its ranges (finetune), or "
        "accept less"
    )
