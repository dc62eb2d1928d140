"""The network: DEIMv2-Femto's backbone and encoder, with finer maps and a head of ours.

DEIMv2-Femto (Huang et al., 2025) learned COCO's classes, so it knows kinds of vehicles, lights and
signs. Its backbone is an HGNetV2 (Cui et al., PP-HGNetV2, PaddleClas 2023). What is taken of it is
convolutions, activations, sums and concatenation alone, which every runtime computes; its decoder,
a transformer, is left out.
"""

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from model_compression.contract import REG_MAX, STRIDES
from model_compression.distillation.intel import halved
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


class ShortStem(nn.Sequential):
    """The stem's first layer and one more: a fraction of its time, and near to what it makes."""

    def __init__(self) -> None:
        """Make it of random weights."""
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, STEM, 3, 2, 1), nn.ReLU(inplace=True)
        self.down = Activated(STEM, STEM, 3, 2)


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

    activation = "hardswish and relu"

    def __init__(self, classes: int, short: bool = False) -> None:
        """Build it of random weights, for so many classes, with a short stem or the original's."""
        super().__init__()
        blocks = [Block(*one, light) for one, light in zip(BLOCKS, LIGHT, strict=True)]
        stages = [
            nn.Sequential(Halving(one[0]), block) for one, block in zip(BLOCKS, blocks, strict=True)
        ]
        stem = ShortStem() if short else Stem()
        self.model = nn.ModuleList([stem, blocks[0], *stages[1:], Pyramid(), Head(classes)])
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

    def for_inference(self) -> "HGNetwork":
        """Return a copy for inference."""
        return deepcopy(self).eval()
