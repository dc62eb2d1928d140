"""A network to train on from a model folder, where the run that made it is gone.

A model folder holds convolutions with BatchNorm folded in, of 8 bits or float. Its weights go back
into the network's layers in the order in which both compute them, and BatchNorm comes back with
what is measured on images, so that the function is the same and training goes on from it.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from ultralytics.nn.modules import Conv

from model_compression.errors import CompressionError
from model_compression.model import make_plain
from model_compression.quantization import float_of
from model_compression.train import to_tensor
from perception_nodes.networks.model import Model

Folded = tuple[torch.Tensor, torch.Tensor]
"""A convolution's weight, float32 [out, in, height, width], and bias, float32 [out]."""


def reload(model: Model, teacher: nn.Module, frames: list[np.ndarray]) -> nn.Module:
    """Return the network of a model folder, for inference or further training.

    Args:
        model: of this package's making.
        teacher: what it was once made from, as of ``build_model`` or ``PlainNetwork``.
        frames: what BatchNorm is measured on, uint8 [height, width, 3] BGR at the input's size.

    Raises:
        CompressionError: it has other layers than that network.
    """
    folded = convolutions_of(model.path)
    network = teacher if model.activation == "silu" else make_plain(teacher, str(model.activation))
    network.eval()
    images = to_tensor(frames)
    layers = _in_order(network, images[:1])
    if len(layers) != len(folded):
        raise CompressionError(
            f"{model.folder} has {len(folded)} convolutions where the teacher's network has "
            f"{len(layers)}; it was made from another one"
        )
    owners = {block.conv: block for block in network.modules() if isinstance(block, Conv)}
    for layer, (weight, bias) in zip(layers, folded, strict=True):
        if weight.shape[2:] != layer.weight.shape[2:]:
            raise CompressionError(f"{model.folder} has other kernels than the teacher's network")
        layer.out_channels, layer.in_channels = weight.shape[:2]
        layer.weight = nn.Parameter(weight)
        if layer.bias is not None:
            layer.bias = nn.Parameter(bias)
        else:
            owners[layer].bn = _passing(bias, owners[layer].bn)
    _measure(network, list(owners.values()), images)
    return network


def convolutions_of(path: Path) -> list[Folded]:
    """Read the convolutions of a model's file, u8 or float, in the order of computation.

    Raises:
        CompressionError: the file is neither.
    """
    graph = onnx.load(path)
    if any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        graph = float_of(graph)
    values = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    folded = [
        (torch.tensor(values[node.input[1]]), torch.tensor(values[node.input[2]]))
        for node in graph.graph.node
        if node.op_type == "Conv"
    ]
    # The file takes BGR, see ``export.take_bgr``.
    folded[0] = (folded[0][0].flip(1), folded[0][1])
    return folded


def _in_order(network: nn.Module, image: torch.Tensor) -> list[nn.Conv2d]:
    layers: list[nn.Conv2d] = []
    hooks = [
        module.register_forward_pre_hook(lambda layer, _: layers.append(layer))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return layers


def _passing(bias: torch.Tensor, old: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Make a normalisation that only adds a bias."""
    new = nn.BatchNorm2d(len(bias), eps=old.eps, momentum=old.momentum).eval()
    new.running_var.fill_(1 - old.eps)
    new.bias = nn.Parameter(bias)
    return new


@torch.no_grad()
def _measure(network: nn.Module, blocks: list[nn.Module], images: torch.Tensor) -> None:
    """Let normalisations know mean and variance of what they get; what they give stays."""

    def keep(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean, norm.running_var = mean, variance
        norm.weight.data = (variance + norm.eps).sqrt()
        norm.bias.data += mean

    hooks = [block.bn.register_forward_pre_hook(keep) for block in blocks]
    network(images)
    for hook in hooks:
        hook.remove()
