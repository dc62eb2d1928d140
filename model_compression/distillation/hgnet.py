"""The network: the backbone of DEIMv2-Femto, with a pyramid and a head of ours.

The backbone is an HGNetV2 (Cui et al., PP-HGNetV2, PaddleClas 2023) that DEIMv2-Femto (Huang et
al., 2025) trained on COCO, so it knows kinds of vehicles, lights and signs. It is convolutions,
ReLU and concatenation alone, which every runtime computes.
"""

from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from model_compression.contract import REG_MAX, STRIDES
from model_compression.distillation.network import halved
from model_compression.errors import CompressionError
from model_compression.model import RawHead

STEM = 16
"""Channels of the stem."""
BLOCKS = ((STEM, 16, 32, 64), (64, 32, 128, 256), (256, 64, 256, 512))
"""Channels that each block takes, within it, of its squeezed map and of what it makes."""
LIGHT = (0, 0, 5)
"""Kernel of each block's depthwise convolutions; 0 for none."""
LAYERS = 3
"""Of a block."""
LATERAL = 48
"""Channels of the finest map as the pyramid takes it."""
PYRAMID = (64, 96, 128)
"""Channels of the pyramid by stride, and below those of the head's first layers."""
BOX, CLASS = (32, 48, 64), (48, 64, 64)

HELD = 1e-5
"""Of the stem's fitted weights towards 0, as a share of what they read."""

Weights = tuple[str, Tensor, Tensor]
"""Name, weight and bias of a convolution."""


class Activated(nn.Sequential):
    """A convolution and ReLU."""

    def __init__(self, into: int, out: int, side: int = 1, stride: int = 1) -> None:
        """Make it of random weights."""
        super().__init__()
        self.conv = nn.Conv2d(into, out, side, stride, side // 2)
        self.act = nn.ReLU(inplace=True)


class Light(nn.Sequential):
    """A convolution of each place, one of each channel, and ReLU."""

    def __init__(self, into: int, out: int, side: int) -> None:
        """Make it of random weights."""
        super().__init__()
        self.point = nn.Conv2d(into, out, 1)
        self.depthwise = nn.Conv2d(out, out, side, 1, side // 2, groups=out)
        self.act = nn.ReLU(inplace=True)


class Block(nn.Module):
    """A chain of layers, all of whose maps are joined, squeezed and widened."""

    def __init__(self, into: int, inner: int, squeezed: int, out: int, light: int) -> None:
        """Make it of random weights."""
        super().__init__()
        sources = [into, *[inner] * (LAYERS - 1)]
        self.layers = nn.ModuleList(
            Light(one, inner, light) if light else Activated(one, inner, 3) for one in sources
        )
        self.squeeze = Activated(into + LAYERS * inner, squeezed)
        self.widen = Activated(squeezed, out)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [n, c, h, w] to [n, d, h, w]."""
        maps = [x]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return cast(Tensor, self.widen(self.squeeze(torch.cat(maps, 1))))


class Halving(nn.Module):
    """A depthwise convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        """Make it of random weights."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [n, c, h, w] to [n, c, h / 2, w / 2]."""
        return halved(self.conv, x) if self.training else cast(Tensor, self.conv(x))


class Stem(nn.Module):
    """Takes the picture to a quarter of its sides.

    The original joins what it works out with its pooled map. Here that map is joined as it is, for
    not every runtime pools; a convolution that is fitted anew makes up for it.
    """

    def __init__(self) -> None:
        """Make it of random weights."""
        super().__init__()
        self.conv = nn.Conv2d(3, STEM, 3, 2, 1)
        self.act = nn.ReLU(inplace=True)
        self.before, self.after = Activated(STEM, STEM // 2, 3), Activated(STEM // 2, STEM, 3)
        self.down, self.narrow = Activated(2 * STEM, STEM, 3, 2), Activated(STEM, STEM)

    def joined(self, images: Tensor) -> Tensor:
        """Return what ``down`` reads of pictures, float32 [n, 2 * STEM, h / 2, w / 2]."""
        x = self.act(self.conv(images))
        return torch.cat([x, self.after(self.before(x))], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map pictures to float32 [n, STEM, h / 4, w / 4]."""
        return cast(Tensor, self.narrow(self.down(self.joined(images))))


class Pyramid(nn.Module):
    """Joins each map with what the coarser ones know (Lin et al., FPN, CVPR 2017)."""

    def __init__(self) -> None:
        """Make it of random weights."""
        super().__init__()
        fine, middle, coarse = PYRAMID
        self.middle, self.fine = Activated(BLOCKS[2][3], middle), Activated(BLOCKS[1][3], LATERAL)
        self.down, self.coarse = Activated(middle, coarse, 3, 2), Activated(coarse, coarse, 3)
        self.join_middle = Activated(middle + coarse, middle)
        self.join_fine = Activated(LATERAL + middle, fine)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map float32 [n, c, h, w] of strides 8 and 16 to maps of strides 8, 16 and 32."""
        middle = self.middle(maps[1])
        coarse = self.coarse(self.down(middle))
        middle = self.join_middle(torch.cat([middle, self.up(coarse)], 1))
        fine = self.join_fine(torch.cat([self.fine(maps[0]), self.up(middle)], 1))
        return [fine, middle, coarse]


class Head(RawHead):
    """YOLOv8's outputs, each by two convolutions of its stride's map."""

    def __init__(self, classes: int) -> None:
        """Take the number of classes."""
        nn.Module.__init__(self)
        self.stride, self.reg_max, self.nc = torch.tensor(STRIDES).float(), REG_MAX, classes
        self.box = _readers(BOX, 4 * REG_MAX, 0.0)
        self.classes = _readers(CLASS, classes, -4.0)


def _readers(widths: tuple[int, ...], outputs: int, bias: float) -> nn.ModuleList:
    """Make the layers of one kind of output, which begins near a bias."""
    readers = nn.ModuleList()
    for into, width in zip(PYRAMID, widths, strict=True):
        last = nn.Conv2d(width, outputs, 1)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, bias)
        readers.append(nn.Sequential(Activated(into, width, 3), last))
    return readers


class HGNetwork(nn.Module):
    """The network.

    Input: float32 [n, 3, h, w], RGB, 0 to 1. Output: see ``RawHead``.

    Attributes:
        model: stem, stages of stride 4 to 16, pyramid, head.
    """

    def __init__(self, classes: int) -> None:
        """Build it of random weights, for so many classes."""
        super().__init__()
        blocks = [Block(*one, light) for one, light in zip(BLOCKS, LIGHT, strict=True)]
        stages = [
            nn.Sequential(Halving(one[0]), block) for one, block in zip(BLOCKS, blocks, strict=True)
        ]
        self.model = nn.ModuleList([Stem(), blocks[0], *stages[1:], Pyramid(), Head(classes)])
        for one in [*self.model[0].modules(), *self.model[-2].modules()]:
            if isinstance(one, nn.Conv2d):
                nn.init.kaiming_normal_(one.weight)
                nn.init.zeros_(one.bias)

    @property
    def fresh(self) -> list[nn.Module]:
        """What the original has no weights for."""
        return list(self.model[-2:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Detect: three box maps and three class maps."""
        fine = self.model[2](self.model[1](self.model[0](images)))
        return cast(list[Tensor], self.model[-1](self.model[-2]([fine, self.model[3](fine)])))


class Femto:
    """Weights of DEIMv2-Femto, as its ONNX file holds them."""

    def __init__(self, path: Path) -> None:
        """Read them.

        Raises:
            CompressionError: the file cannot be read, or is another network.
        """
        try:
            found = _folded_weights(onnx.load(path).graph)
        except (OSError, KeyError, DecodeError) as error:
            raise CompressionError(f"{path} cannot be read: {error}") from error
        self._stem, self._stages, self._lateral = (
            [one for one in found if part in one[0]]
            for part in ("/backbone/stem/", "/backbone/stages.", "/encoder/input_proj.0/")
        )
        if (len(self._stem), len(self._stages), len(self._lateral)) != (5, 20, 1):
            raise CompressionError(f"{path} is another network; take deimv2_femto")

    @torch.no_grad()
    def fill(self, network: HGNetwork, images: Tensor) -> float:
        """Give a network all weights but those of the pyramid and the head.

        Args:
            network: to fill.
            images: what the stem's new convolution is fitted to, as the network takes them.

        Returns:
            The explained share of the variance of the map that is fitted.
        """
        stem, *stages = network.model[:4]
        convolutions = [one for stage in stages for one in stage.modules()]
        mine = [one for one in convolutions if isinstance(one, nn.Conv2d)]
        mine += [network.model[-2].middle.conv, stem.conv, stem.before.conv, stem.after.conv]
        first, before, after, join, last = self._stem
        theirs = [*self._stages, *self._lateral, first, before, after, last]
        for own, (_, weight, bias) in zip([*mine, stem.narrow.conv], theirs, strict=True):
            # A kernel of 2 x 2 sees a place and what lies to the right and below.
            space = own.weight.shape[2] - weight.shape[2]
            own.weight.copy_(functional.pad(weight, (space, 0, space, 0)))
            own.bias.copy_(bias)
        ours = stem.joined(images)
        pooled = functional.max_pool2d(functional.pad(ours[:, :STEM], (0, 1, 0, 1)), 2, 1)
        theirs_joined = torch.cat([pooled, ours[:, STEM:]], 1)
        return fit(stem.down.conv, ours, functional.conv2d(theirs_joined, *join[1:], 2, 1))


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


def _folded_weights(graph: onnx.GraphProto) -> list[Weights]:
    """Read convolutions; what scales and shifts the maps that one reads becomes a part of it.

    Behind each activation the original has a scale and a shift, of all channels alike. At the
    border, where a convolution pads, that is not the same; the training mends it.
    """
    stored = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    changes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    found = []
    for node in graph.node:
        constants = [stored[name] for name in node.input if name in stored]
        scale, shift = changes.get(node.input[0] if node.input else "", (np.ones(1), np.zeros(1)))
        made = None
        match node.op_type:
            case "Conv" if len(constants) == 2:
                weight, bias = constants
                groups = next(one.i for one in node.attribute if one.name == "group")
                # A depthwise convolution has one input channel for each output.
                shape = (-1, 1, 1, 1) if groups > 1 else (1, -1, 1, 1)
                bias = bias + (weight * shift.reshape(shape)).sum((1, 2, 3))
                weight = weight * scale.reshape(shape)
                tensors = (torch.from_numpy(one.astype(np.float32)) for one in (weight, bias))
                found.append((node.name, *tensors))
                made = np.ones(len(bias)), np.zeros(len(bias))
            case "Relu" | "Pad" | "MaxPool":
                made = scale, shift
            case "Mul" | "Add" if len(constants) == 1 and "/lab/" in node.name:
                source = next(name for name in node.input if name not in stored)
                scale, shift = changes[source]
                by = constants[0]
                made = (scale * by, shift * by) if node.op_type == "Mul" else (scale, shift + by)
            case "Concat" if all(name in changes for name in node.input):
                parts = [changes[name] for name in node.input]
                scale, shift = (np.concatenate(one) for one in zip(*parts, strict=True))
                made = scale, shift
        if made:
            changes[node.output[0]] = made
        if "/encoder/input_proj.0/" in node.name:
            break
    return found
