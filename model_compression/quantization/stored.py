"""What the 8-bit tensors of a finished file cost, one by one: where to look if it detects nothing.

As ``sensitivity`` does before a file is written: one tensor alone is rounded, with the scale that
stands in the file, and all others stay float. Weights are as they are in the file.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from model_compression.quantization.divergence import divergence
from model_compression.quantization.emit import float_of, rewrite
from model_compression.quantization.graph import read_layout
from model_compression.quantization.ranges import open_float


def stored_costs(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Measure what each layer's stored result costs.

    Args:
        path: a u8 file.
        frames: a few are enough, but they should show objects; uint8 [height, width, 3] BGR.
        threads: for the network.
        progress: called with layers done and layers in all.

    Returns:
        By name of the convolution, the costliest first: the divergence at the outputs in nats an
        object (see ``divergence``).

    Raises:
        CompressionError: it is not a u8 file, or cannot be taken apart.
    """
    quantized = onnx.load(path)
    model = float_of(quantized)
    layout = read_layout(model)
    values = {tensor.name: tensor for tensor in quantized.graph.initializer}
    amax = {
        node.input[0]: 127 * float(numpy_helper.to_array(values[node.input[1]]))
        for node in quantized.graph.node
        if node.op_type == "QuantizeLinear"
    }
    run = open_float(model, layout.outputs, threads)
    reference = [run(frame) for frame in frames]
    blocks = [block for block in layout.blocks if block.output in amax]
    costs = {}
    for done, block in enumerate(blocks, start=1):
        # No convolution's weights are rounded, so their number of bits is of no effect.
        rounded = rewrite(model, layout, {block.output: amax[block.output]}, set(), weight_bits=8)
        run = open_float(rounded, layout.outputs, threads)
        answers = [run(frame) for frame in frames]
        pairs = zip(reference, answers, strict=True)
        costs[block.name] = float(np.mean([divergence(one, two) for one, two in pairs]))
        if progress is not None:
            progress(done, len(blocks))
    return dict(sorted(costs.items(), key=lambda item: item[1], reverse=True))
