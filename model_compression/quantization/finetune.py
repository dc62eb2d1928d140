"""Quantization-aware training: adapt weights to the very rounding that ``emit`` writes.

The float graph is run in PyTorch node by node, with its stored tensors and weights rounded as in
the emitted file; gradients pass the rounding as if it were not there (Bengio et al. 2013). The
float graph itself, unrounded, is the teacher: no labels are needed.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from model_compression.quantization.divergence import BOX_WEIGHT, CLASS_WEIGHT
from model_compression.quantization.graph import Layout, weights_of
from model_compression.quantization.table import Range, RangeTable
from model_compression.quantization.weights import fingerprint, weight_scale

LARGEST_CODE = 127
RANGE_RATE = 10.0
"""Ranges learn so many times faster than weights; they are logarithms, of order one."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: batches.
        learning_rate: of the weights at the start; it falls to zero as half a cosine.
    """

    steps: int = 300
    learning_rate: float = 2e-5


class RoundedGraph(nn.Module):
    """A float ONNX graph as a PyTorch module, rounded or not.

    Input: uint8 [n, height, width, 3] BGR. Output: the graph's outputs, float32 [n, c, h, w].
    """

    def __init__(self, model: onnx.ModelProto, layout: Layout, table: RangeTable) -> None:
        super().__init__()
        self._layout, self._table = layout, table
        self._nodes = list(model.graph.node)
        self._constants = weights_of(model)
        for node in self._nodes:
            if node.op_type == "Constant":
                self._constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self._facts = [
            {a.name: helper.get_attribute_value(a) for a in node.attribute} for node in self._nodes
        ]
        self._blocks = {block.name: block for block in layout.blocks}
        self._group = {name: i for i, part in enumerate(table.ranges) for name in part.tensors}
        # Parameter names may not hold dots, tensor names do.
        self._index = {
            name: str(i)
            for i, name in enumerate(
                name for block in layout.blocks for name in (block.weight, block.bias)
            )
        }
        self.values = nn.ParameterDict(
            {key: torch.tensor(self._constants[name]) for name, key in self._index.items()}
        )
        self.log_amax = nn.Parameter(torch.tensor([float(np.log(r.amax)) for r in table.ranges]))

    def forward(self, image: Tensor, rounded: bool = True) -> list[Tensor]:
        """Run the graph, with rounding or without."""
        tensors: dict[str, Any] = {self._layout.image: image}
        for node, facts in zip(self._nodes, self._facts, strict=True):
            if node.op_type == "Constant":
                continue
            values = self._run(node, facts, tensors, rounded)
            for name, value in zip(node.output, values, strict=True):
                if rounded and name in self._group:
                    value = round_codes(value, self.log_amax[self._group[name]].exp())
                tensors[name] = value
        return [tensors[name] for name in self._layout.outputs]

    def weights(self) -> dict[str, np.ndarray]:
        """Return the trained weights and biases by name."""
        return {name: self.values[key].detach().numpy() for name, key in self._index.items()}

    def ranges(self) -> tuple[Range, ...]:
        """Return the table's ranges as they are now."""
        amax = self.log_amax.detach().exp().tolist()
        return tuple(
            Range(amax=float(f"{value:.6g}"), tensors=part.tensors)
            for value, part in zip(amax, self._table.ranges, strict=True)
        )

    def _run(
        self, node: onnx.NodeProto, facts: dict[str, Any], tensors: dict[str, Any], rounded: bool
    ) -> tuple[Tensor, ...]:
        x = [tensors[name] for name in node.input if name in tensors]
        match node.op_type:
            case "DequantizeLinear":
                return (x[0].float() / 255,)
            case "Transpose":
                return (x[0].permute(*facts["perm"]),)
            case "Conv":
                return (self._convolve(node.name, x[0], facts, rounded),)
            case "HardSwish":
                return (functional.hardswish(x[0]),)
            case "Relu":
                return (functional.relu(x[0]),)
            case "Clip":
                return (functional.relu6(x[0]),)
            case "Sigmoid":
                return (x[0].sigmoid(),)
            case "Mul":
                return (x[0] * x[1],)
            case "Add":
                return (x[0] + x[1],)
            case "Concat":
                return (torch.cat(x, dim=facts["axis"]),)
            case "Split":
                return x[0].split(self._constants[node.input[1]].tolist(), dim=facts["axis"])
            case "Resize":
                return (functional.interpolate(x[0], scale_factor=2, mode="nearest"),)
            case "MaxPool":
                size = facts["kernel_shape"][0]
                return (functional.max_pool2d(x[0], size, stride=1, padding=size // 2),)
        raise AssertionError(node.op_type)  # read_layout knows no other

    def _convolve(self, name: str, x: Tensor, facts: dict[str, Any], rounded: bool) -> Tensor:
        block = self._blocks[name]
        weight, bias = (self.values[self._index[part]] for part in (block.weight, block.bias))
        if rounded and name not in self._table.float_convolutions:
            bits = self._table.weight_bits
            scale = weight_scale(weight.detach().numpy(), bias.detach().numpy(), bits)
            step = torch.from_numpy(scale)[:, None, None, None]
            weight = weight + ((weight / step).round() * step - weight).detach()
        top, left = facts["pads"][:2]
        return functional.conv2d(
            x, weight, bias, facts["strides"], (top, left), groups=facts.get("group", 1)
        )


def round_codes(x: Tensor, amax: Tensor) -> Tensor:
    """Round to the codes of a tensor; gradients pass, but for values outside of its range.

    Those reach ``amax`` instead, as does the rounding error of the others (Esser et al. 2020).
    """
    step = amax / LARGEST_CODE
    codes = torch.clamp(x / step, -LARGEST_CODE - 1, LARGEST_CODE)
    return (codes + (codes.round() - codes).detach()) * step


def distance(heads: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Return the divergence of ``divergence.py`` for a batch, differentiable, a mean per object."""
    levels = len(heads) // 2

    def joined(maps: list[Tensor]) -> Tensor:
        return torch.cat([x.flatten(2) for x in maps], dim=2)

    classes, target = joined(heads[levels:]), joined(teacher[levels:])
    scores = target.sigmoid()
    seen = scores.amax(dim=1)
    # Cross entropy less the teacher's own entropy: zero where both agree.
    class_part = functional.binary_cross_entropy_with_logits(classes, scores, reduction="sum")
    class_part = class_part - functional.binary_cross_entropy_with_logits(
        target, scores, reduction="sum"
    )
    box, box_target = (
        joined(maps[:levels]).unflatten(1, (4, -1)).log_softmax(dim=2) for maps in (heads, teacher)
    )
    box_part = functional.kl_div(box, box_target, reduction="none", log_target=True)
    box_part = (box_part.sum(dim=2).mean(dim=1) * seen).sum()
    return (CLASS_WEIGHT * class_part + BOX_WEIGHT * box_part) / seen.sum().clamp(min=1)


def finetune(
    model: onnx.ModelProto,
    table: RangeTable,
    batches: Iterator[np.ndarray],
    schedule: Schedule | None = None,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[onnx.ModelProto, RangeTable]:
    """Train a float graph's weights, and its ranges, for the rounding of its table.

    Args:
        model: the float graph; it is left as it is, and is the teacher.
        table: its table of ranges.
        batches: uint8 [n, height, width, 3] BGR each, letterboxed to the input.
        schedule: how long and how fast.
        report: called after every step with its number and its loss.

    Returns:
        The float graph with new weights, and its table.

    Raises:
        CompressionError: the table is not the model's.
    """
    schedule = schedule or Schedule()
    layout = table.check(model)
    network = RoundedGraph(model, layout, table)
    teacher = copy.deepcopy(network).requires_grad_(False)
    rates = [
        {"params": list(network.values.values()), "lr": schedule.learning_rate},
        {"params": [network.log_amax], "lr": RANGE_RATE * schedule.learning_rate},
    ]
    optimizer = torch.optim.Adam(rates)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.steps)
    for step in range(schedule.steps):
        image = torch.from_numpy(next(batches))
        with torch.no_grad():
            target = teacher(image, rounded=False)
        loss = distance(network(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        report(step, float(loss.detach()))
    trained = onnx.ModelProto()
    trained.CopyFrom(model)
    new = network.weights()
    for tensor in trained.graph.initializer:
        if tensor.name in new:
            tensor.CopyFrom(numpy_helper.from_array(new[tensor.name], tensor.name))
    facts = {
        "weights_sha256": fingerprint(trained, layout, table.weight_bits),
        "ranges": network.ranges(),
    }
    return trained, table.model_copy(update=facts)
