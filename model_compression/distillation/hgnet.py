"""The network: DEIMv2-Femto's backbone and encoder, with finer maps and a head of ours.

DEIMv2-Femto (Huang et al., 2025) learned COCO's classes, so it knows kinds of vehicles, lights and
signs. Its backbone is an HGNetV2 (Cui et al., PP-HGNetV2, PaddleClas 2023). What is taken of it is
convolutions, activations, sums and concatenation alone, which every runtime computes; its decoder,
a transformer, is left out.
"""

import re
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
WIDTH, NARROW = 96, 16
"""Channels of the encoder, and within its chains."""
PYRAMID, BOX, CLASS = (64, WIDTH, WIDTH), (32, 48, 64), 48
"""Channels of the pyramid by stride, of the first layers of boxes, and of the finest classes'."""
KNOWN = [0, 1, 2, 3, 5, 7, 9, 11]
"""Where COCO's 80 classes have ours."""
HELD = 1e-5
"""Of the stem's fitted weights towards 0, as a share of what they read."""

CONV = re.compile(r"(/conv_bn_fused|/conv)?/Conv$")
"""What ends a convolution's name in the original's file."""


class Activated(nn.Sequential):
    """A convolution and ReLU."""

    def __init__(self, into: int, out: int, side: int = 1, stride: int = 1) -> None:
        """Make it of random weights."""
        super().__init__()
        self.conv = nn.Conv2d(into, out, side, stride, side // 2)
        self.act = nn.ReLU(inplace=True)


class Swished(nn.Sequential):
    """A convolution and HardSwish, for the encoder's SiLU, which not every runtime computes."""

    def __init__(self, into: int, out: int, side: int = 1, stride: int = 1) -> None:
        """Make it of random weights."""
        super().__init__()
        self.conv = nn.Conv2d(into, out, side, stride, side // 2)
        self.act = nn.Hardswish(inplace=True)


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


class Chain(nn.Module):
    """Half of a map, and what two convolutions make of the other half, summed up."""

    def __init__(self, into: int) -> None:
        """Make it of random weights."""
        super().__init__()
        self.kept, self.worked = Swished(into, NARROW), Swished(into, NARROW)
        self.layers = nn.Sequential(*(Swished(NARROW, NARROW, 3) for _ in range(2)))
        self.end = Swished(NARROW, NARROW, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [n, c, h, w] to [n, NARROW, h, w]."""
        return cast(Tensor, self.end(self.kept(x) + self.layers(self.worked(x))))


class Fusion(nn.Module):
    """Fuses two maps (RepNCSPELAN; Wang et al., YOLOv9, ECCV 2024).

    The original's sum of the two is a part of the first convolutions here.
    """

    def __init__(self) -> None:
        """Make it of random weights."""
        super().__init__()
        self.kept, self.worked = Swished(2 * WIDTH, WIDTH), Swished(2 * WIDTH, WIDTH)
        self.chains = nn.ModuleList([Chain(WIDTH), Chain(NARROW)])
        self.join = Swished(2 * (WIDTH + NARROW), WIDTH)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Map two maps float32 [n, WIDTH, h, w] to one."""
        both = torch.cat([own, other], 1)
        maps = [self.kept(both), self.worked(both)]
        for chain in self.chains:
            maps.append(chain(maps[-1]))
        return cast(Tensor, self.join(torch.cat(maps, 1)))


class Pyramid(nn.Module):
    """The encoder, and a finer map that knows what its maps know."""

    def __init__(self) -> None:
        """Make it of random weights."""
        super().__init__()
        self.middle = nn.Conv2d(BLOCKS[2][3], WIDTH, 1)
        self.down, self.mix = Swished(WIDTH, WIDTH, 3, 2), Swished(WIDTH, WIDTH)
        self.fuse_middle, self.fuse_coarse = Fusion(), Fusion()
        self.down_again = Swished(WIDTH, WIDTH, 3, 2)
        self.fine = Activated(BLOCKS[1][3], LATERAL)
        self.join_fine = Activated(LATERAL + WIDTH, PYRAMID[0])
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map float32 [n, c, h, w] of strides 8 and 16 to maps of strides 8, 16 and 32."""
        middle = self.middle(maps[1])
        coarse = self.mix(self.down(middle))
        middle = self.fuse_middle(middle, self.up(coarse))
        coarse = self.fuse_coarse(coarse, self.down_again(middle))
        fine = self.join_fine(torch.cat([self.fine(maps[0]), self.up(middle)], 1))
        return [fine, middle, coarse]


class Head(RawHead):
    """YOLOv8's outputs; classes of the encoder's maps are read as the original reads them."""

    def __init__(self, classes: int) -> None:
        """Take the number of classes."""
        nn.Module.__init__(self)
        self.stride, self.reg_max, self.nc = torch.tensor(STRIDES).float(), REG_MAX, classes
        self.box = nn.ModuleList(
            nn.Sequential(Activated(into, width, 3), _last(width, 4 * REG_MAX, 0.0))
            for into, width in zip(PYRAMID, BOX, strict=True)
        )
        finest = nn.Sequential(Activated(PYRAMID[0], CLASS, 3), _last(CLASS, classes, -4.0))
        self.classes = nn.ModuleList([finest, *(_last(WIDTH, classes, -4.0) for _ in range(2))])

    @property
    def last(self) -> list[nn.Conv2d]:
        """What class scores come out of, stride by stride."""
        return [self.classes[0][-1], *self.classes[1:]]


def _last(into: int, outputs: int, bias: float) -> nn.Conv2d:
    """Make an output's convolution, which begins near a bias."""
    made = nn.Conv2d(into, outputs, 1)
    nn.init.normal_(made.weight, std=0.01)
    nn.init.constant_(made.bias, bias)
    return made


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
        for one in (self.model[-2].fine, self.model[-2].join_fine):
            nn.init.kaiming_normal_(one.conv.weight)
            nn.init.zeros_(one.conv.bias)

    @property
    def fresh(self) -> list[nn.Module]:
        """What the original has no weights for."""
        pyramid, head = self.model[-2:]
        return [pyramid.fine, pyramid.join_fine, head.box, head.classes[0]]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return what the pyramid reads, of strides 8 and 16."""
        fine = self.model[2](self.model[1](self.model[0](images)))
        return [fine, self.model[3](fine)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Detect: three box maps and three class maps."""
        return cast(list[Tensor], self.model[-1](self.model[-2](self.maps(images))))


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
                for own, rows in zip((chain.kept, chain.worked), halves, strict=True):
                    self._give(own.conv, f"{part}/{part[-3:]}.0/conv1", rows)
                for index, layer in enumerate(chain.layers):
                    name = f"{part}/{part[-3:]}.0/bottlenecks/bottlenecks.{index}"
                    self._give(layer.conv, name)
                self._give(chain.end.conv, f"{part}/{part[-3:]}.1")
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
                groups = next(one.i for one in node.attribute if one.name == "group")
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
