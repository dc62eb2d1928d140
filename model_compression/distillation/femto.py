"""Weights of DEIMv2-Femto for an HGNetwork: what can be is the original's, the rest is fitted."""

import re
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from model_compression.distillation.hgnet import (
    LIGHT,
    NARROW,
    STEM,
    WIDTH,
    HGNetwork,
    Pyramid,
    Stem,
)
from model_compression.errors import CompressionError

KNOWN = [0, 1, 2, 3, 5, 7, 9, 11]
"""Where COCO's 80 classes have ours."""
HELD = 1e-5
"""Of the stem's fitted weights towards 0, as a share of what they read."""
CONV = re.compile(r"(/conv_bn_fused|/conv)?/Conv$")
"""What ends a convolution's name in the original's file."""


class Femto:
    """Weights of DEIMv2-Femto, as its ONNX file holds them."""

    def __init__(self, path: Path) -> None:
        """Read them.

        Raises:
            CompressionError: the file cannot be read, or is another network.
        """
        try:
            self._path, self._found = path, _folded_weights(onnx.load(path).graph)
        except (OSError, DecodeError, ValueError) as error:
            raise CompressionError(f"{path} cannot be read: {error}") from error

    @torch.no_grad()
    def fill(self, network: HGNetwork, images: Tensor) -> float:
        """Give a network all weights but those of ``fresh``.

        Args:
            network: to fill.
            images: float32 [n, 3, h, w], what is measured and fitted is so on these.

        Returns:
            The explained share of the variance of the stem's map that is fitted.

        Raises:
            CompressionError: the weights are another network's.
        """
        try:
            return self._fill(network, images)
        except (KeyError, RuntimeError) as error:
            raise CompressionError(f"{self._path} is another network: {error}") from error

    def _fill(self, network: HGNetwork, images: Tensor) -> float:
        stem, first, second, third, pyramid, head = network.model
        for number, block in enumerate((first, second[1], third[1])):
            part = f"backbone/stages.{number}/blocks/blocks.0"
            ends = ("/conv1", "/conv2") if LIGHT[number] else ("",)
            for index, layer in enumerate(block.layers):
                for own, end in zip(_convolutions(layer), ends, strict=True):
                    self._give(own, f"{part}/layers.{index}{end}")
            self._give(block.squeeze.conv, f"{part}/aggregation/aggregation.0")
            self._give(block.widen.conv, f"{part}/aggregation/aggregation.1")
        self._give(second[0].conv, "backbone/stages.1/downsample")
        self._give(third[0].conv, "backbone/stages.2/downsample")
        for own, name in (("conv", "1"), ("before.conv", "2a"), ("after.conv", "2b")):
            self._give(stem.get_submodule(own), f"backbone/stem/stem{name}")
        self._give(stem.narrow.conv, "backbone/stem/stem4")
        explained = self._fit(stem, images)
        self._encoder(network, pyramid, images)
        for own in head.classes[1:]:
            self._give(own, "decoder/enc_score_head", KNOWN)
        return explained

    def _give(self, own: nn.Conv2d, name: str, rows: slice | list[int] = slice(None)) -> None:
        """Give a convolution rows of the original's of that name.

        A kernel of 2 x 2 sees a place and what lies to the right and below; a convolution of the
        mean of 3 x 3 places is one of all of these; one of a sum is one of both summands.
        """
        weight, bias = (one[rows] for one in self._found[name])
        space = own.weight.shape[2] - weight.shape[2]
        if space == 2:
            weight = weight.expand(-1, -1, 3, 3) / 9
        elif space == 1:
            weight = functional.pad(weight, (1, 0, 1, 0))
        own.weight.copy_(weight.repeat(1, own.weight.shape[1] // weight.shape[1], 1, 1))
        own.bias.copy_(bias)

    def _fit(self, stem: Stem, images: Tensor) -> float:
        """Fit the stem's convolution that reads a map which the original pools."""
        ours = stem.joined(images)
        pooled = functional.max_pool2d(functional.pad(ours[:, :STEM], (0, 1, 0, 1)), 2, 1)
        theirs = torch.cat([pooled, ours[:, STEM:]], 1)
        wanted = functional.conv2d(theirs, *self._found["backbone/stem/stem3"], 2, 1)
        return fit(stem.down.conv, ours, wanted)

    def _encoder(self, network: HGNetwork, pyramid: Pyramid, images: Tensor) -> None:
        self._give(pyramid.middle, "encoder/input_proj.0")
        for own, name in ((pyramid.down, "1"), (pyramid.down_again, "2")):
            self._give(own.conv, f"encoder/down_sample{name}/down_sample{name}.1")
        for fusion, name in ((pyramid.fuse_middle, "fpn"), (pyramid.fuse_coarse, "pan")):
            block = f"encoder/{name}_block"
            halves = slice(WIDTH), slice(WIDTH, 2 * WIDTH)
            for own, rows in zip((fusion.kept, fusion.worked), halves, strict=True):
                self._give(own.conv, f"{block}/cv1", rows)
            for chain, part in zip(fusion.chains, (f"{block}/cv2", f"{block}/cv3"), strict=True):
                halves = slice(NARROW), slice(NARROW, 2 * NARROW)
                inner = f"{part}/{part[-3:]}"
                for own, rows in zip((chain.kept, chain.worked), halves, strict=True):
                    self._give(own.conv, f"{inner}.0/conv1", rows)
                for index, layer in enumerate(chain.layers):
                    self._give(layer.conv, f"{inner}.0/bottlenecks/bottlenecks.{index}")
                self._give(chain.end.conv, f"{inner}.1")
            self._give(fusion.join.conv, f"{block}/cv4")
        # The original adds each channel's mean over the image; here it is that over many.
        self._give(pyramid.mix.conv, "encoder/bi_fusion/cv")
        coarse = pyramid.down(pyramid.middle(network.maps(images)[1]))
        weight = pyramid.mix.conv.weight.flatten(1)
        pyramid.mix.conv.bias.add_(weight @ coarse.mean((0, 2, 3)))


def _convolutions(part: nn.Module) -> list[nn.Conv2d]:
    return [one for one in part.modules() if isinstance(one, nn.Conv2d)]


def fit(own: nn.Conv2d, x: Tensor, wanted: Tensor) -> float:
    """Give a 3 x 3 convolution of stride 2 the weights of least squares, a little held.

    Args:
        own: the convolution.
        x: what it reads, float32 [n, c, h, w].
        wanted: what it is to make, float32 [n, d, h / 2, w / 2].

    Returns:
        The explained share of the variance.
    """
    read = functional.unfold(x, 3, padding=1, stride=2).transpose(0, 1).flatten(1).T
    target = wanted.flatten(2).transpose(0, 1).flatten(1).T.double()
    rows = functional.pad(read, (0, 1), value=1.0).double()
    square = rows.T @ rows
    held = HELD * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    solution = torch.linalg.solve(square + held, rows.T @ target)
    own.weight.copy_(solution[:-1].T.reshape(own.weight.shape))
    own.bias.copy_(solution[-1])
    missed = (rows @ solution - target).square().mean(0) / target.var(0)
    return float(1 - missed.mean())


def _folded_weights(graph: onnx.GraphProto) -> dict[str, tuple[Tensor, Tensor]]:
    """Read convolutions by name; what scales and shifts the maps that one reads becomes its part.

    Behind each activation of the backbone is a scale and a shift, of all channels alike. At the
    border, where a convolution pads, that is not the same; the training mends it.
    """
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    changes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    found = {}
    for node in graph.node:
        constants = [stored[name] for name in node.input if name in stored]
        sources = [name for name in node.input if name not in stored]
        scale, shift = changes.get(sources[0] if sources else "", (np.ones(1), np.zeros(1)))
        name = node.name.removeprefix("/model/")
        match node.op_type:
            case "Conv" if len(constants) == 2:
                weight, bias = constants
                groups = next((one.i for one in node.attribute if one.name == "group"), 1)
                # A depthwise convolution has one input channel for each output.
                shape = (-1, 1, 1, 1) if groups > 1 else (1, -1, 1, 1)
                bias = bias + (weight * shift.reshape(shape)).sum((1, 2, 3))
                found[CONV.sub("", name)] = weight * scale.reshape(shape), bias
                changes[node.output[0]] = np.ones(len(bias)), np.zeros(len(bias))
            case "MatMul" if constants and name == "decoder/enc_score_head/MatMul":
                found[name.removesuffix("/MatMul")] = constants[0].T[..., None, None], np.zeros(1)
            case "Add" if constants and name == "decoder/enc_score_head/Add":
                key = name.removesuffix("/Add")
                found[key] = found[key][0], constants[0]
            case "Relu" | "Pad" | "MaxPool":
                changes[node.output[0]] = scale, shift
            case "Mul" if len(constants) == 1 and "/lab/" in name:
                changes[node.output[0]] = scale * constants[0], shift * constants[0]
            case "Add" if len(constants) == 1 and "/lab/" in name:
                changes[node.output[0]] = scale, shift + constants[0]
            case "Concat" if all(one in changes for one in sources):
                parts = [changes[one] for one in sources]
                scale, shift = (np.concatenate(one) for one in zip(*parts, strict=True))
                changes[node.output[0]] = scale, shift
    return {
        name: (torch.tensor(weight).float(), torch.tensor(bias).float())
        for name, (weight, bias) in found.items()
    }
