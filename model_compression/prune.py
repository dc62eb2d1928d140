"""Structured pruning: whole channels go, sixteen at a time, where they are missed least.

Uniform pruning takes as much from a layer that the network lives on as from one that hardly
matters. Here each group of coupled channels is first silenced, a part at a time, and the change of
the network's outputs is measured; channels then go in the order of least change for the
multiply-accumulates they save. Dependencies between layers are torch-pruning's (Fang et al.,
DepGraph, CVPR 2023).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import nn

from model_compression.model import count_gmac, distillation_loss
from model_compression.train import half_precision

BLOCK = 16
"""Channels come in multiples of this: a vector of the engines that run the result."""
LARGEST_CUT = 0.5
"""Share of a group's channels that may go in one round."""


@dataclass
class Group:
    """Channels that must go together, because layers add or share them.

    Attributes:
        root: name of the convolution that makes them.
        channels: how many there are.
        order: their indices at the root, least important first.
        makers: layers that give them their values, normalisations or convolutions with a bias, each
            with the channel there of every channel at the root.
        gmac: 10^9 multiply-accumulates that one channel costs.
        change: change of the outputs when the first 16, 32, ... of ``order`` are silent.
    """

    root: str
    channels: int
    order: list[int]
    makers: list[tuple[nn.Conv2d | nn.BatchNorm2d, list[int]]]
    gmac: float
    change: list[float]


def find_groups(model: nn.Module, size_px: tuple[int, int]) -> list[Group]:
    """List the groups that may lose channels, all but the head's outputs."""
    names = {module: name for name, module in model.named_modules()}
    places = _output_places(model, size_px)
    graph = _dependencies(model, size_px)
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    groups = []
    for group in graph.get_all_groups(_outputs(model), root_module_types=[nn.Conv2d]):
        root = group[0].dep.target.module
        if root.out_channels < 2 * BLOCK:
            continue
        gmac, makers = 0.0, []
        for dep, indices in group:
            module = dep.target.module
            if isinstance(module, nn.Conv2d):
                makes = dep.handler == tp.prune_conv_out_channels
                whole = module.out_channels if makes else module.in_channels
                share = len(indices) / whole / root.out_channels
                gmac += module.weight.numel() * places[module] / 1e9 * share
                is_maker = module.bias is not None and (makes or module.groups > 1)
            else:
                is_maker = isinstance(module, nn.BatchNorm2d)
            if is_maker:
                makers.append((module, list(indices)))
        order = importance(group).argsort().tolist()
        groups.append(Group(names[root], root.out_channels, order, makers, gmac, []))
    return groups


def _outputs(model: nn.Module) -> list[nn.Module]:
    head = model.model[-1]
    return [*(branch[-1] for branch in head.box), *head.last]


def _dependencies(model: nn.Module, size_px: tuple[int, int]) -> tp.DependencyGraph:
    example = torch.zeros(1, 3, size_px[1], size_px[0])
    return tp.DependencyGraph().build_dependency(model, example_inputs=example)


def _output_places(model: nn.Module, size_px: tuple[int, int]) -> dict[nn.Module, int]:
    """Count the pixels of each convolution's output."""
    places: dict[nn.Module, int] = {}
    hooks = [
        m.register_forward_hook(
            lambda module, _, out: places.__setitem__(module, out.shape[2] * out.shape[3])
        )
        for m in model.modules()
        if isinstance(m, nn.Conv2d)
    ]
    with torch.no_grad():
        model(torch.zeros(1, 3, size_px[1], size_px[0]))
    for hook in hooks:
        hook.remove()
    return places


@contextmanager
def silenced(group: Group, count: int) -> Iterator[None]:
    """Let a group's least important channels be zero within the block, as if they were gone."""
    kept = [(layer.weight.data.clone(), layer.bias.data.clone()) for layer, _ in group.makers]
    for layer, channels in group.makers:
        # A group's channels may pass a normalisation more than once, one stretch after another.
        for first in range(0, len(channels), group.channels):
            gone = [channels[first + i] for i in group.order[:count]]
            layer.weight.data[gone] = 0
            layer.bias.data[gone] = 0
    try:
        yield
    finally:
        for (layer, _), (weight, bias) in zip(group.makers, kept, strict=True):
            layer.weight.data, layer.bias.data = weight, bias


def measure_sensitivity(
    model: nn.Module,
    images: torch.Tensor,
    size_px: tuple[int, int],
    progress: Callable[[int, int], None],
    known: dict[str, list[float]] | None = None,
) -> list[Group]:
    """Find the groups and measure what the absence of their channels changes.

    Args:
        model: network in inference mode.
        images: float32 [n, 3, h, w] to measure on.
        size_px: width and height of the input.
        progress: called with groups done and in all.
        known: changes by root that were measured before; those measured now are added.
    """
    known = {} if known is None else known
    groups = find_groups(model, size_px)  # traces by autograd
    with torch.no_grad(), half_precision():
        whole = [x.float() for x in model(images)]
    floor = distillation_loss(whole, whole).item() / len(images)
    for done, group in enumerate(groups):
        group.change += known.get(group.root, [])
        counts = range(BLOCK, int(group.channels * LARGEST_CUT) + 1, BLOCK)
        for count in counts[len(group.change) :]:
            with torch.no_grad(), silenced(group, count), half_precision():
                outputs = [x.float() for x in model(images)]
            loss = distillation_loss(outputs, whole).item() / len(images) - floor
            # Measured on few images: more silence never counts as less change.
            group.change.append(max(loss, group.change[-1] if group.change else 0.0))
        known[group.root] = group.change
        progress(done + 1, len(groups))
    return groups


def choose(groups: list[Group], gmac: float) -> dict[str, int]:
    """Choose how many channels each root loses, to save at least so many 10^9 MACs.

    Greedy: the next block goes where it changes the outputs least for what it saves. Savings of
    different groups are taken as independent.
    """
    cuts = dict.fromkeys((group.root for group in groups), 0)
    saved = 0.0

    def cost(group: Group) -> float:
        step = cuts[group.root]
        before = group.change[step - 1] if step else 0.0
        return (group.change[step] - before) / group.gmac

    while saved < gmac:
        open_groups = [group for group in groups if cuts[group.root] < len(group.change)]
        if not open_groups:
            break
        cheapest = min(open_groups, key=cost)
        cuts[cheapest.root] += 1
        saved += BLOCK * cheapest.gmac
    return {root: BLOCK * count for root, count in cuts.items() if count}


def remove(
    model: nn.Module, groups: list[Group], cuts: dict[str, int], size_px: tuple[int, int]
) -> nn.Module:
    """Return a copy of the model without the chosen channels."""
    model = deepcopy(model)
    graph = _dependencies(model, size_px)
    modules = dict(model.named_modules())
    for group in groups:
        if group.root in cuts:
            gone = sorted(group.order[: cuts[group.root]])
            graph.get_pruning_group(
                modules[group.root], tp.prune_conv_out_channels, idxs=gone
            ).prune()
    return model


def prune(
    model: nn.Module,
    images: torch.Tensor,
    target_gmac: float,
    size_px: tuple[int, int],
    progress: Callable[[int, int], None],
    known: dict[str, list[float]] | None = None,
) -> tuple[nn.Module, list[dict]]:
    """Prune to a number of multiply-accumulates, or as far as one round may go.

    See ``measure_sensitivity`` for the arguments.

    Returns:
        The pruned copy, and a row a group of what its channels cost and how many went.
    """
    model = model.eval()
    groups = measure_sensitivity(model, images, size_px, progress, known)
    excess = count_gmac(model, size_px) - target_gmac
    cuts = choose(groups, excess)
    pruned = remove(model, groups, cuts, size_px)
    # Cuts on both sides of a convolution save less than their sum: take more until it is enough.
    most = choose(groups, math.inf)
    wanted = excess
    while cuts != most and (still := count_gmac(pruned, size_px) - target_gmac) > 0:
        wanted += max(still, BLOCK * min(group.gmac for group in groups))
        cuts = choose(groups, wanted)
        pruned = remove(model, groups, cuts, size_px)
    rows = [
        {
            "convolution": group.root,
            "channels": group.channels,
            "removed": cuts.get(group.root, 0),
            "mmac_a_channel": round(group.gmac * 1e3, 3),
            "change": [round(value, 4) for value in group.change],
        }
        for group in groups
    ]
    return pruned, rows
