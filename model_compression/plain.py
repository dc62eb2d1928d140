"""Plain networks, described as data: convolutions of 3 x 3 with ReLU, shaped for the hardware.

Matrix units, and the multipliers of an FPGA, want few layers of many channels, one after another.
So there are no branches but those of the pyramid, and the files hold the same operators as those of
a pruned network.
"""

import math

import torch
from torch import nn
from ultralytics.nn.modules import Conv

from model_compression.config import Shape
from model_compression.contract import REG_MAX, STRIDES
from model_compression.model import ACTIVATIONS, RawHead

STEM_STRIDE = 4
PRIOR = 0.01
"""Class score of an untrained network, so that its first loss is not that of thousands of objects
(Lin et al., Focal Loss, ICCV 2017)."""


class PlainNetwork(nn.Module):
    """A detector of random weights, as a ``Shape`` describes it.

    Input: float32 [n, 3, h, w], RGB, 0 to 1. Output: see ``RawHead``.

    Attributes:
        model: the stem, the stages of stride 4, 8, 16 and 32, the pyramid, the head.
    """

    def __init__(self, shape: Shape, activation: str, classes: int) -> None:
        """Build it for so many classes; ``activation`` is "relu" or "hardswish"."""
        super().__init__()
        first, *wider = shape.widths
        parts = [
            block(3, first, shape.stem_kernel, STEM_STRIDE),
            nn.Sequential(*(block(first, first) for _ in range(shape.depths[0]))),
        ]
        for into, out, depth in zip(shape.widths[:-1], wider, shape.depths[1:], strict=True):
            repeated = (block(out, out) for _ in range(depth))
            parts.append(nn.Sequential(block(into, out, stride=2), *repeated))
        parts += [Pyramid(wider, shape.neck), PlainHead(shape.neck, shape.head, classes)]
        self.model = nn.ModuleList(parts)
        for module in self.modules():
            if isinstance(module, Conv):
                module.act = ACTIVATIONS[activation](inplace=True)

    @property
    def stages(self) -> list[nn.Module]:
        """What makes the maps of stride 4, 8, 16 and 32."""
        return list(self.model[1:-2])

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Detect: three box maps and three class maps."""
        x = self.model[0](images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pyramid, head = self.model[-2:]
        return head(pyramid(maps[1:]))


class Pyramid(nn.Module):
    """Joins each map with what the coarser ones know (Lin et al., FPN, CVPR 2017).

    Maps are joined by a 1 x 1 convolution of both, of which a sum is a special case.
    """

    def __init__(self, widths: list[int], channels: int) -> None:
        """Take the maps' channels, fine to coarse, and those of what leaves."""
        super().__init__()
        beside = [channels] * (len(widths) - 1) + [0]
        pairs = zip(widths, beside, strict=True)
        self.join = nn.ModuleList(block(own + other, channels, 1) for own, other in pairs)
        self.smooth = nn.ModuleList(block(channels, channels) for _ in widths)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Map float32 [n, c, h, w] of each stride to as many maps, fine to coarse."""
        left: list[torch.Tensor] = []
        for own, join, smooth in reversed(list(zip(maps, self.join, self.smooth, strict=True))):
            joined = torch.cat([own, self.up(left[0])], 1) if left else own
            left.insert(0, smooth(join(joined)))
        return left


class PlainHead(RawHead):
    """YOLOv8's outputs, by one 3 x 3 convolution for boxes and one for classes at each stride."""

    def __init__(self, into: int, channels: int, classes: int) -> None:
        """Take the channels of each map, those within a branch, and the number of classes."""
        nn.Module.__init__(self)
        self.stride, self.reg_max, self.nc = torch.tensor(STRIDES).float(), REG_MAX, classes

        def branches(outputs: int, bias: float) -> nn.ModuleList:
            made = nn.ModuleList(
                nn.Sequential(block(into, channels), nn.Conv2d(channels, outputs, 1))
                for _ in STRIDES
            )
            for branch in made:
                nn.init.constant_(branch[-1].bias, bias)
            return made

        self.box = branches(4 * REG_MAX, 1.0)
        self.classes = branches(classes, math.log(PRIOR / (1 - PRIOR)))


def block(into: int, out: int, kernel: int = 3, stride: int = 1) -> Conv:
    """Make a convolution with normalisation; one that can begins as the identity.

    With some noise added it learns faster than from noise alone, and no shortcut has to be removed
    in the end (after Zagoruyko and Komodakis, DiracNets, 2017).
    """
    layer = Conv(into, out, kernel, stride, max(kernel - stride + 1, kernel % 2) // 2)
    nn.init.kaiming_normal_(layer.conv.weight, nonlinearity="relu")
    if into == out and stride == 1 and kernel == 3:
        identity = torch.zeros_like(layer.conv.weight)
        nn.init.dirac_(identity)
        layer.conv.weight.data = layer.conv.weight.data / 2 + identity
    return layer
