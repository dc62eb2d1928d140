"""YOLOv8 and YOLO11: the raw head outputs that the run time decodes, and plain layers."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional
from ultralytics.nn.modules import C2PSA, SPPF, Attention, C2f, C3k2, Concat, Conv, Detect
from ultralytics.utils.loss import v8DetectionLoss

from model_compression.checkpoint import load_detector
from model_compression.contract import REG_MAX, STRIDES
from model_compression.errors import CompressionError
from perception_nodes.core.errors import listed


class RawHead(nn.Module):
    """The branches of YOLO's head, without decoding.

    Returns, stride by stride, the DFL logits (float32 [n, 64, h, w], sides left, top, right,
    bottom of 16 bins each) and after them the class logits (float32 [n, classes, h, w]).
    """

    def __init__(self, head: Detect) -> None:
        super().__init__()
        self.box, self.classes = head.cv2, head.cv3
        self.stride, self.reg_max, self.nc = head.stride, head.reg_max, head.nc
        # Ultralytics wires its layers by these.
        self.f, self.i, self.type = head.f, head.i, "RawHead"

    @property
    def last(self) -> list[nn.Conv2d]:
        """What class scores come out of, stride by stride."""
        return [branch[-1] for branch in self.classes]

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Turn the three feature maps into three box and three class maps."""
        boxes = [branch(x) for branch, x in zip(self.box, features, strict=True)]
        return boxes + [branch(x) for branch, x in zip(self.classes, features, strict=True)]


ACTIVATIONS = {"hardswish": nn.Hardswish, "relu": nn.ReLU}


class SplitC2f(nn.Module):
    """A C2f block whose first convolution is two, one for each half of its channels.

    The same function without a Split, and each half can lose channels of its own.
    """

    def __init__(self, block: C2f) -> None:
        super().__init__()
        self.kept = half_of(block.cv1, slice(0, block.c))
        self.worked = half_of(block.cv1, slice(block.c, 2 * block.c))
        self.m, self.cv2 = block.m, block.cv2
        self.f, self.i, self.type = block.f, block.i, "SplitC2f"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float32 [n, c, h, w] to [n, d, h, w]."""
        parts = [self.kept(x), self.worked(x)]
        for bottleneck in self.m:
            parts.append(bottleneck(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class ConvolutionPyramid(nn.Module):
    """SPPF with a 3 x 3 convolution in the place of each pooling.

    It starts as the identity of each channel, so the block's other weights still fit, and learns
    what pooling did. An accelerator that knows convolutions needs nothing else for it.
    """

    def __init__(self, block: SPPF) -> None:
        super().__init__()
        self.cv1, self.cv2 = block.cv1, block.cv2
        channels = block.cv1.conv.out_channels
        self.m = nn.ModuleList(Conv(channels, channels, 3) for _ in range(3))
        for layer in self.m:
            nn.init.normal_(layer.conv.weight, std=0.002)
            layer.conv.weight.data[range(channels), range(channels), 1, 1] += 1.0
            layer.bn.eps, layer.bn.momentum = block.cv1.bn.eps, block.cv1.bn.momentum
        self.f, self.i, self.type = block.f, block.i, "ConvolutionPyramid"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float32 [n, c, h, w] to [n, d, h, w]."""
        parts = [self.cv1(x)]
        for layer in self.m:
            parts.append(layer(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SplitPSA(nn.Module):
    """A C2PSA block, split as a C2f block is, whose attention is a convolution."""

    def __init__(self, block: C2PSA) -> None:
        super().__init__()
        self.kept = half_of(block.cv1, slice(0, block.c))
        self.worked = half_of(block.cv1, slice(block.c, 2 * block.c))
        self.m, self.cv2 = block.m, block.cv2
        for part in self.m:
            part.attn = ConvolutionAttention(part.attn)
        self.f, self.i, self.type = block.f, block.i, "SplitPSA"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float32 [n, c, h, w] to [n, d, h, w]."""
        return self.cv2(torch.cat([self.kept(x), self.m(self.worked(x))], 1))


class ConvolutionAttention(nn.Module):
    """Self-attention with a 3 x 3 convolution in the place of its weighted means over all places.

    It starts as the mean of a place and its neighbours, which of the simple means is the nearest
    to what YOLO11n computes; values, encoding of places and projection keep their weights.
    """

    def __init__(self, block: Attention) -> None:
        super().__init__()
        heads, keys, values = block.num_heads, block.key_dim, block.head_dim
        rows = torch.arange(block.qkv.conv.out_channels).view(heads, 2 * keys + values)
        self.value = half_of(block.qkv, rows[:, 2 * keys :].flatten())
        channels = block.pe.conv.out_channels
        self.mix = Conv(channels, channels, 3, act=False)
        self.mix.bn.eps, self.mix.bn.momentum = block.pe.bn.eps, block.pe.bn.momentum
        gain = block.pe.bn.weight.data / (block.pe.bn.running_var + block.pe.bn.eps).sqrt()
        nn.init.normal_(self.mix.conv.weight, std=0.002)
        own = block.pe.conv.weight.data[:, 0] * gain[:, None, None] + 1 / 9
        self.mix.conv.weight.data[range(channels), range(channels)] += own
        self.mix.bn.bias.data = block.pe.bn.bias.data - block.pe.bn.running_mean * gain
        self.proj = block.proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map float32 [n, c, h, w] to the same shape."""
        return self.proj(self.mix(self.value(x)))


def half_of(block: Conv, channels: slice | torch.Tensor) -> Conv:
    """Return a convolution, normalisation and activation of some of a block's channels."""
    half = deepcopy(block)
    half.conv.weight.data = block.conv.weight.data[channels].clone()
    half.conv.out_channels = half.bn.num_features = len(half.conv.weight)
    for tensor in (half.bn.weight, half.bn.bias, half.bn.running_mean, half.bn.running_var):
        tensor.data = tensor.data[channels].clone()
    return half


def make_plain(model: nn.Module, activation: str) -> nn.Module:
    """Return a copy of convolutions, additions, concatenations and upsampling only.

    ``activation`` takes the place of SiLU, which needs an exponential for every value. HardSwish
    and ReLU fuse into the 8-bit convolution before them.
    """
    model = deepcopy(model)
    layers = model.model
    for index, layer in enumerate(layers):
        if isinstance(layer, C2f):
            layers[index] = SplitC2f(layer)
        elif isinstance(layer, SPPF):
            layers[index] = ConvolutionPyramid(layer)
        elif isinstance(layer, C2PSA):
            layers[index] = SplitPSA(layer)
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.SiLU):
                setattr(parent, name, ACTIVATIONS[activation](inplace=True))
    return model


def keep_classes(head: Detect, rows: list[int]) -> None:
    """Cut a head to some of its classes, so that it works before any training."""
    for branch in head.cv3:
        old = branch[-1]
        new = nn.Conv2d(old.in_channels, len(rows), 1)
        new.weight.data = old.weight.data[rows].clone()
        new.bias.data = old.bias.data[rows].clone()
        branch[-1] = new
    head.nc, head.no = len(rows), len(rows) + 4 * REG_MAX


LAYERS = (Conv, C2f, C3k2, SPPF, C2PSA, nn.Upsample, Concat, Detect)
"""Of YOLOv8 and YOLO11."""


def build_model(checkpoint: Path, classes: Sequence[str]) -> nn.Module:
    """Build the dense detector from the weights of YOLOv8 or YOLO11, with some of their classes.

    Input: float32 [n, 3, h, w], RGB, 0 to 1. Output: see ``RawHead``.

    Raises:
        CompressionError: the checkpoint is no such detector, or lacks a class.
    """
    network = load_detector(checkpoint)
    model, names = network.model.float(), list(network.names.values())
    head = model.model[-1]
    others = {type(layer).__name__ for layer in model.model if type(layer) not in LAYERS}
    if others or head.reg_max != REG_MAX or head.stride.tolist() != list(STRIDES):
        found = f"layers {', '.join(sorted(others))}" if others else "another head"
        raise CompressionError(
            f"{checkpoint.name} is no YOLOv8 or YOLO11 of strides 8, 16 and 32, it has {found}; "
            "take one of these, or another detector as it is: perception model import"
        )
    if lacking := [name for name in classes if name not in names]:
        raise CompressionError(
            f"{checkpoint.name} has no class {lacking[0]!r}, only {listed(names, 8)}; train it "
            "with that class first, or take it out of `classes`"
        )
    keep_classes(head, [names.index(name) for name in classes])
    model.model[-1] = RawHead(head)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def save_model(model: nn.Module, path: Path) -> None:
    """Write a whole network: its channels are no longer those of any description."""
    partial = path.with_suffix(".partial")
    torch.save(model, partial)
    partial.rename(path)


def load_model(path: Path) -> nn.Module:
    """Read a network that ``save_model`` wrote (a pickle: only from a run of one's own)."""
    return torch.load(path, map_location="cpu", weights_only=False).float().eval()


def count_gmac(model: nn.Module, size_px: tuple[int, int]) -> float:
    """Return 10^9 multiply-accumulates of the convolutions for one input of width and height."""
    macs = 0

    def count(module: nn.Conv2d, _: tuple, output: torch.Tensor) -> None:
        nonlocal macs
        macs += module.weight.numel() * output.shape[2] * output.shape[3]

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    training = model.training
    model.eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, size_px[1], size_px[0]))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return macs / 1e9


class DetectionLoss:
    """YOLOv8's loss (task-aligned assignment, CIoU, DFL, BCE) on the raw head outputs."""

    def __init__(self, model: nn.Module) -> None:
        model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=1)
        self._criterion = v8DetectionLoss(model)

    def __call__(
        self, outputs: list[torch.Tensor], labels: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare outputs with each image's labels, float32 [k, 5] of class and cx, cy, w, h.

        Boxes are fractions of the input. Returns the loss to minimise and its box, class and
        DFL parts (float32 [3]).
        """
        boxes, classes = outputs[:3], outputs[3:]
        index = torch.cat([torch.full((len(k),), i) for i, k in enumerate(labels)])
        rows = torch.cat(labels)
        predictions = {
            "boxes": torch.cat([x.flatten(2) for x in boxes], dim=2),
            "scores": torch.cat([x.flatten(2) for x in classes], dim=2),
            "feats": boxes,  # read for their sizes alone
        }
        targets = {"batch_idx": index.float(), "cls": rows[:, 0], "bboxes": rows[:, 1:]}
        parts = self._criterion.get_assigned_targets_and_loss(predictions, targets)[1]
        return parts.sum() * len(labels), parts.detach()


def distillation_loss(student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
    """Compare raw head outputs with those of a teacher that sees the same images.

    It keeps what the labels show too seldom to be learned (stop signs), and what they leave out.
    Class scores are compared everywhere, boxes where the teacher sees an object. Weighted like
    the class and DFL parts of the detection loss, and times the batch size as that is.
    """
    classes = torch.cat([x.flatten(2) for x in student[3:]], dim=2)
    target = torch.cat([x.flatten(2) for x in teacher[3:]], dim=2).sigmoid()
    seen = target.amax(dim=1)  # [n, anchors]
    class_part = functional.binary_cross_entropy_with_logits(classes, target, reduction="sum")

    def bins(maps: list[torch.Tensor]) -> torch.Tensor:
        joined = torch.cat([x.flatten(2) for x in maps], dim=2)
        return joined.unflatten(1, (4, REG_MAX)).log_softmax(dim=2)

    divergence = functional.kl_div(
        bins(student[:3]), bins(teacher[:3]), reduction="none", log_target=True
    )
    box_part = (divergence.sum(dim=2).mean(dim=1) * seen).sum()
    total = (0.5 * class_part + 1.5 * box_part) / seen.sum().clamp(min=1)
    return total * len(classes)


class FeatureLoss(nn.Module):
    """Channel-wise distillation of the three maps that enter the head (Shu et al., ICCV 2021).

    Each channel's values become a distribution over places; the student's, after a learned 1 x 1
    convolution, is to be the teacher's. It tells where to look, whatever the scale of features.
    """

    def __init__(self, student: list[int], teacher: list[int]) -> None:
        """Take the channels of both networks' maps."""
        super().__init__()
        pairs = zip(student, teacher, strict=True)
        self.adapters = nn.ModuleList(nn.Conv2d(s, t, 1) for s, t in pairs)

    def forward(self, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
        """Compare maps, float32 [n, c, h, w] each; a mean over levels, summed over the batch."""
        total = torch.zeros(())
        for adapter, ours, theirs in zip(self.adapters, student, teacher, strict=True):
            log_ours = adapter(ours.float()).flatten(2).log_softmax(dim=2)
            log_theirs = theirs.float().flatten(2).log_softmax(dim=2)
            divergence = functional.kl_div(
                log_ours, log_theirs, reduction="none", log_target=True
            ).sum(dim=2)
            total = total + divergence.mean(dim=1).sum()
        return total / len(self.adapters)
