"""Folding the image: its 2 x 2 pixels become 12 channels of half the width and height.

A convolution of stride 2 or 4 on the image equals one of half the stride on the folded image, with
a smaller kernel. The engine's 16 input lanes then hold 12 channels instead of 3, and the image
takes a quarter of the memory.
"""

from dataclasses import replace

import numpy as np

from perception_nodes.core.integer import Convolution
from perception_nodes.core.tensor_graph import ChannelSpan, ConvolutionNode, Tensor, TensorGraph

FOLD = 2


def fold_image(graph: TensorGraph) -> TensorGraph | None:
    """Make the graph of the same network on the folded image.

    The order of the folded image's channels is (row, column, colour) within 2 x 2 pixels.

    Returns:
        The graph; None if the image cannot be folded, because its size is odd, or because it is
        read by something else than a convolution of even stride.
    """
    image = graph.tensors[graph.image]
    readers = [node for node in graph.convolutions if _reads(node, image.name)]
    whole = ((ChannelSpan(image.name, 0, image.channels),),)
    if image.height % FOLD or image.width % FOLD or not readers:
        return None
    for node in readers:
        summed = node.residual is not None and node.residual.tensor == image.name
        if node.segments != whole or summed or node.layer.stride % FOLD:
            return None
    channels = image.channels * FOLD * FOLD
    folded = Tensor(image.name, channels, image.height // FOLD, image.width // FOLD)
    segments = ((ChannelSpan(image.name, 0, channels),),)
    convolutions = [
        replace(node, layer=_folded(node.layer), segments=segments)
        if _reads(node, image.name)
        else node
        for node in graph.convolutions
    ]
    return replace(graph, tensors={**graph.tensors, image.name: folded}, convolutions=convolutions)


def _reads(node: ConvolutionNode, tensor: str) -> bool:
    spans = [span for segment in node.segments for span in segment]
    return any(p is not None and p.tensor == tensor for p in (*spans, node.residual))


def _kernel(layer: Convolution) -> tuple[int, int]:
    """Height and width of the kernel on the folded image."""
    height, width = (
        (kernel - 1 - pad) // FOLD - (-pad // FOLD) + 1
        for kernel, pad in zip(layer.weight.shape[2:], layer.pads[:2], strict=True)
    )
    return height, width


def _folded(layer: Convolution) -> Convolution:
    out, colours, height, width = layer.weight.shape
    top, left = layer.pads[:2]
    weight = np.zeros((out, FOLD, FOLD, colours, *_kernel(layer)), np.int16)
    for ky, kx in np.ndindex(height, width):
        (above, row), (before, column) = divmod(ky - top, FOLD), divmod(kx - left, FOLD)
        at = above - (-top // FOLD), before - (-left // FOLD)
        weight[:, row, column, :, at[0], at[1]] = layer.weight[:, :, ky, kx]
    # Padding below and to the right is not needed: the size of the result implies it.
    pads = (-(-top // FOLD), -(-left // FOLD), 0, 0)
    return replace(
        layer,
        weight=weight.reshape(out, -1, *weight.shape[4:]),
        stride=layer.stride // FOLD,
        pads=pads,
    )
