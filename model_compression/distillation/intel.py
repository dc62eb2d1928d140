"""The network: Intel's road detector with one head for our classes.

Stem, inverted residual blocks (Sandler et al., MobileNetV2, CVPR 2018), pyramid and towers are the
original's; the last layers are ours.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_compression.contract import REG_MAX, STRIDES
from model_compression.errors import CompressionError
from model_compression.model import RawHead

CONVOLUTIONS = ("Convolution", "GroupConvolution")
STEM = 32
"""Channels of the stem."""
BLOCKS = (
    *((96, 24, 2), (144, 24, 1), (144, 32, 2), (192, 32, 1), (192, 32, 1)),
    *((192, 64, 2), (384, 64, 1), (384, 64, 1), (384, 64, 1)),
    *((384, 96, 1), (576, 96, 1), (576, 96, 1)),
    *((576, 160, 2), (960, 160, 1), (960, 160, 1), (960, 320, 1)),
)
"""Channels within each block, channels that it makes, and its stride.

The original has one more in front of them. Its last convolution is part of the next block's first
here, because no activation stands between them; the rest of it is in the stem.
"""
STAGES = (0, 2, 5, 12, 16)
"""Where in them the stages of stride 4, 8, 16 and 32 begin and end."""
WIDTH = 32
"""Channels of the pyramid and the towers."""
DEPTH = 4
"""Convolutions of a tower."""


def halved(own: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a depthwise 3 x 3 convolution of stride 2, whose gradient is slow in bfloat16."""
    every = functional.conv2d(x, own.weight, own.bias, 1, 1, 1, own.groups)
    return every[:, :, ::2, ::2]


class Stem(nn.Sequential):
    """A convolution of the picture, one of each place, and one of each channel.

    Input: float32 [n, 3, h, w]. Output: float32 [n, STEM, h / 2, w / 2].
    """

    def __init__(self) -> None:
        """Make it of random weights."""
        super().__init__()
        self.conv = nn.Conv2d(3, STEM, 3, 2, 1)
        self.act = nn.ReLU(inplace=True)
        self.wide = nn.Conv2d(STEM, STEM, 1)
        self.wide_act = nn.ReLU(inplace=True)
        self.depthwise = nn.Conv2d(STEM, STEM, 3, 1, 1, groups=STEM)
        self.depthwise_act = nn.ReLU(inplace=True)


class Inverted(nn.Module):
    """An inverted residual block: wider, depthwise, narrower."""

    def __init__(self, expand: nn.Conv2d, depthwise: nn.Conv2d, project: nn.Conv2d) -> None:
        """Take the three convolutions."""
        super().__init__()
        self.expand, self.depthwise, self.project = expand, depthwise, project
        self.act = nn.ReLU(inplace=True)
        self.adds = depthwise.stride == (1, 1) and expand.in_channels == project.out_channels

    @classmethod
    def of(cls, into: int, hidden: int, out: int, stride: int) -> "Inverted":
        """Make one of random weights."""
        depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden)
        return cls(nn.Conv2d(into, hidden, 1), depthwise, nn.Conv2d(hidden, out, 1))

    def hidden(self, x: Tensor) -> Tensor:
        """Map float32 [n, c, h, w] to what the last convolution reads."""
        wide, own = self.act(self.expand(x)), self.depthwise
        apart = self.training and own.stride == (2, 2)
        return self.act(halved(own, wide) if apart else own(wide))

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [n, c, h, w] to [n, d, h / stride, w / stride]."""
        narrow = self.project(self.hidden(x))
        return x + narrow if self.adds else narrow


class Pyramid(nn.Module):
    """Joins each map with what the coarser ones know (Lin et al., FPN, CVPR 2017).

    The original's sums are convolutions of both maps here, which every runtime has.
    """

    def __init__(self, lateral: list[nn.Conv2d], smooth: list[nn.Conv2d]) -> None:
        """Take the original's convolutions in front of the sums and behind them, fine to coarse."""
        super().__init__()
        finer = [joined(one) for one in lateral[:-1]]
        self.join, self.smooth = nn.ModuleList([*finer, lateral[-1]]), nn.ModuleList(smooth)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map float32 [n, c, h, w] of each stride to as many maps, fine to coarse."""
        found: list[Tensor] = []
        for own, join in reversed(list(zip(maps, self.join, strict=True))):
            found.insert(0, join(torch.cat([own, self.up(found[0])], 1) if found else own))
        return [smooth(one) for smooth, one in zip(self.smooth, found, strict=True)]


def joined(lateral: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution of a map and a coarser one that adds the coarser one."""
    out, into = lateral.out_channels, lateral.in_channels
    made = nn.Conv2d(into + out, out, 1)
    identity = torch.eye(out)[..., None, None]
    made.weight.data.copy_(torch.cat([lateral.weight.data, identity], 1))
    made.bias.data.copy_(lateral.bias.data)
    return made


def tower() -> nn.Sequential:
    """Make the convolutions of one kind of output at one stride."""
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def reader(channels: int, outputs: int, bias: float) -> nn.Sequential:
    """Make the two convolutions that read outputs from the end of a tower."""
    wide, last = nn.Conv2d(channels, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, outputs, 1)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(wide, nn.ReLU(inplace=True), last)


class Towers(RawHead):
    """YOLOv8's outputs, at the end of two towers of convolutions for each stride.

    The original knows the centres of objects in the towers of its boxes, and has three anchors at
    each place. So classes are read from both towers, and all outputs through one more layer.
    """

    def __init__(self, classes: int) -> None:
        """Take the number of classes."""
        nn.Module.__init__(self)
        self.stride, self.reg_max, self.nc = torch.tensor(STRIDES).float(), REG_MAX, classes
        self.box, self.classes = (nn.ModuleList(tower() for _ in STRIDES) for _ in range(2))
        self.read_box = nn.ModuleList(reader(WIDTH, 4 * REG_MAX, 0.0) for _ in STRIDES)
        self.read_classes = nn.ModuleList(reader(2 * WIDTH, classes, -4.0) for _ in STRIDES)

    @property
    def last(self) -> list[nn.Conv2d]:
        """What class scores come out of, stride by stride."""
        return [reader[-1] for reader in self.read_classes]

    def towers(self, features: list[Tensor]) -> list[Tensor]:
        """Return what ``read`` takes: ends of the box towers, then of both towers together."""
        boxes, classes = (
            [branch(x) for branch, x in zip(branches, features, strict=True)]
            for branches in (self.box, self.classes)
        )
        return [*boxes, *(torch.cat(pair, 1) for pair in zip(classes, boxes, strict=True))]

    def read(self, ends: Iterable[Tensor]) -> list[Tensor]:
        """Return three box and three class maps."""
        readers = (*self.read_box, *self.read_classes)
        return [read(x) for read, x in zip(readers, ends, strict=True)]

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map three features to three box and three class maps."""
        return self.read(self.towers(features))


class IntelNetwork(nn.Module):
    """The network.

    Input: float32 [n, 3, h, w], RGB, 0 to 1. Output: see ``RawHead``.

    Attributes:
        model: stem, stages of stride 4 to 32, pyramid, head.
    """

    activation = "relu"

    def __init__(self, classes: int) -> None:
        """Build it of random weights, for so many classes."""
        super().__init__()
        into = [STEM, *(out for _, out, _ in BLOCKS[:-1])]
        blocks = [Inverted.of(i, *block) for i, block in zip(into, BLOCKS, strict=True)]
        stages = [nn.Sequential(*blocks[i:j]) for i, j in pairwise(STAGES)]
        widths = [BLOCKS[end - 1][1] for end in STAGES[2:]]
        lateral = [nn.Conv2d(channels, WIDTH, 1) for channels in widths]
        smooth = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in widths]
        parts = [Stem(), *stages, Pyramid(lateral, smooth), Towers(classes)]
        self.model = nn.ModuleList(parts)

    @property
    def stages(self) -> list[nn.Module]:
        """What makes the maps of stride 4, 8, 16 and 32."""
        return list(self.model[1:5])

    @property
    def blocks(self) -> list[Inverted]:
        """The blocks of all stages."""
        return [block for stage in self.stages for block in stage]

    @property
    def fresh(self) -> list[nn.Module]:
        """What the original has no weights for."""
        return [*self.model[-1].read_box, *self.model[-1].read_classes]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return what the head reads, float32 [n, WIDTH, h / s, w / s] of strides s 8, 16, 32."""
        x, maps = self.model[0](images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.model[-2](maps[1:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Detect: three box maps and three class maps."""
        return self.model[-1](self.maps(images))

    @torch.no_grad()
    def for_inference(self) -> "IntelNetwork":
        """Return a copy in which one convolution does what two do without an activation."""
        network = deepcopy(self).eval()
        *_, late, pyramid, _ = network.model
        late[-1].project = in_one(late[-1].project, pyramid.join[-1])
        pyramid.join[-1] = nn.Identity()
        return network


@torch.no_grad()
def in_one(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution that does what two of size 1 do."""
    made = nn.Conv2d(first.in_channels, second.out_channels, 1)
    matrix = second.weight.flatten(1)
    made.weight.copy_((matrix @ first.weight.flatten(1))[..., None, None])
    made.bias.copy_(matrix @ first.bias + second.bias)
    return made


class Original:
    """Weights of person-vehicle-bike-detection-2003 or -2004, as OpenVINO's `.xml` holds them."""

    def __init__(self, path: Path) -> None:
        """Read them.

        Raises:
            CompressionError: the file cannot be read.
        """
        try:
            operators = openvino.Core().read_model(path).get_ordered_ops()
        except RuntimeError as error:
            raise CompressionError(f"{path} cannot be read: {error}") from error
        self._backbone: list[nn.Conv2d] = []
        scale = 1.0
        self._named: dict[str, nn.Conv2d] = {}
        self._norms: dict[str, tuple[Tensor, Tensor]] = {}
        for one in operators:
            kind = one.get_type_name()
            if kind == "Multiply" and not self._backbone:
                scale = float(_beside(one))
            elif kind in CONVOLUTIONS:
                name = one.input_value(1).get_node().get_friendly_name()
                if name.startswith(("neck.", "bbox_head.")):
                    self._named.setdefault(name, _convolution(one))
                elif len(self._backbone) < 1 + 3 * (1 + len(BLOCKS)):
                    self._backbone.append(_convolution(one))
            elif kind == "MVN":
                weight = one.input_value(0).get_node().input_value(1).get_node()
                scaled = _reader(one)
                self._norms.setdefault(
                    weight.get_friendly_name(), (_beside(scaled), _beside(_reader(scaled)))
                )
        # It reads bytes, blue first.
        stem = self._backbone[0].weight
        stem.data = stem.data.flip(1) * (255 * scale)

    def pyramid(self) -> Pyramid:
        """The pyramid of strides 8, 16 and 32."""
        names = ("neck.lateral_convs.{}.conv.weight", "neck.fpn_convs.{}.conv.weight")
        lateral, smooth = ([self._named[one.format(i)] for i in range(3)] for one in names)
        return Pyramid(lateral, smooth)

    @torch.no_grad()
    def fill(self, network: IntelNetwork) -> None:
        """Give a network all weights but those of ``fresh``; ``normalise`` mends its towers.

        The original's activations end at 6, which those of -2004 do not reach.
        """
        stem, pyramid, head = network.model[0], *network.model[-2:]
        blocks = [(one.expand, one.depthwise, one.project) for one in network.blocks]
        mine = [stem.conv, stem.wide, stem.depthwise, *chain(*blocks)]
        *begin, narrow, wide = self._backbone[:5]
        theirs = [*begin, in_one(narrow, wide), *self._backbone[5:]]
        for own, old in zip(mine, theirs, strict=True):
            own.load_state_dict(old.state_dict())
        pyramid.load_state_dict(self.pyramid().state_dict())
        for kind, branches in (("cls", head.classes), ("reg", head.box)):
            for branch in branches:
                for i in range(DEPTH):
                    old = self._named[f"bbox_head.{kind}_convs.{i}.conv.weight"]
                    branch[2 * i].weight.copy_(old.weight)

    @torch.no_grad()
    def normalise(self, head: Towers, maps: list[Tensor]) -> None:
        """Fold normalisation into a head's towers.

        The original normalises each channel of each image. Here statistics of many maps that enter
        the head take the place of an image's own.

        Args:
            head: of a network as ``fill`` leaves it.
            maps: for each stride float32 [n, c, h, w].
        """
        for kind, branches in (("cls", head.classes), ("reg", head.box)):
            for branch, x in zip(branches, maps, strict=True):
                for i in range(DEPTH):
                    own = branch[2 * i]
                    own.bias.zero_()
                    y = own(x)
                    name = f"bbox_head.{kind}_convs.{i}.conv.weight"
                    scale, shift = self._norms[name]
                    # An image's own variance is smaller than that of all: the mean of theirs.
                    deviation = (y.var((2, 3), correction=0).mean(0) + 1e-5).sqrt()
                    gain = scale / deviation
                    own.weight.mul_(gain[:, None, None, None])
                    own.bias.copy_(shift - y.mean((0, 2, 3)) * gain)
                    x = functional.relu(own(x))


def _convolution(node: openvino.Node) -> nn.Conv2d:
    weight = _constant(node.input_value(1).get_node())
    assert weight is not None
    grouped = node.get_type_name() == "GroupConvolution"
    groups = len(weight) if grouped else 1
    tensor = torch.from_numpy(weight.reshape(-1, *weight.shape[-3:]))
    out, into, side, _ = tensor.shape
    made = nn.Conv2d(
        into * groups, out, side, node.get_attributes()["strides"][0], side // 2, groups=groups
    )
    made.weight.data.copy_(tensor)
    reader = _reader(node)
    if reader.get_type_name() == "Add":
        made.bias.data.copy_(_beside(reader))
    else:
        made.bias.data.zero_()
    return made


def _reader(node: openvino.Node) -> openvino.Node:
    return next(iter(node.output(0).get_target_inputs())).get_node()


def _beside(node: openvino.Node) -> Tensor:
    """The constant of a sum or product."""
    found: Iterator = (_constant(node.input_value(i).get_node()) for i in (0, 1))
    return torch.from_numpy(next(one for one in found if one is not None).reshape(-1))


def _constant(node: openvino.Node) -> NDArray[np.float32] | None:
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    return np.array(node.data, np.float32)
