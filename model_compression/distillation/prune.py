"""The student's first weights: the original's, for the hidden channels that are missed least.

A block's last convolution is fitted by least squares to what the original's block makes, from what
the student's block reads, so that it mends what went wrong before it. Which channels go is decided
one after another: that whose loss costs least after such a fit (LeCun et al., Optimal Brain
Damage, NIPS 1989; Hassibi and Stork, Optimal Brain Surgeon, NIPS 1992).
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model_compression.distillation.network import STAGES, Inverted, Original, RoadNetwork

PLACES = 800
"""Of a batch of pictures, that a fit sees."""
RIDGE = 1e-5
"""Of the mean square of what is read, added to it, so that channels may be alike."""


class Fit:
    """Least squares from channels, and a constant, to others."""

    def __init__(self, read: Iterable[Tensor], wanted: Iterable[Tensor]) -> None:
        """Take batches of maps [n, c, ...] and [n, d, ...]."""
        rng = torch.Generator().manual_seed(0)
        self._square, self._product = torch.zeros(()), torch.zeros(())
        for x, y in zip(read, wanted, strict=True):
            chosen = torch.randint(len(x) * x[0, 0].numel(), (PLACES,), generator=rng)
            rows = x.movedim(1, -1).flatten(0, -2)[chosen].double()
            rows = torch.cat([rows, torch.ones(PLACES, 1)], 1)
            self._square = self._square + rows.T @ rows
            self._product = (
                self._product + rows.T @ y.movedim(1, -1).flatten(0, -2)[chosen].double()
            )
        ridge = RIDGE * self._square.diagonal()[:-1].mean()
        self._square = self._square + ridge * torch.eye(len(self._square))

    def solve(self, kept: NDArray[np.int64] | None = None) -> tuple[Tensor, Tensor]:
        """Return weights [d, kept channels] and biases [d]."""
        channels = np.arange(len(self._square) - 1) if kept is None else kept
        rows = torch.from_numpy(np.append(channels, len(self._square) - 1))
        found = torch.linalg.solve(self._square[rows][:, rows], self._product[rows]).float()
        return found[:-1].T, found[-1]

    def choose(self, channels: int) -> NDArray[np.int64]:
        """Return which so many channels to keep, in their order."""
        inverse = torch.linalg.inv(self._square)
        weight = inverse @ self._product
        kept = list(range(len(inverse) - 1))
        while len(kept) > channels:
            cost = weight[kept].square().sum(1) / inverse.diagonal()[kept]
            gone = kept.pop(int(cost.argmin()))
            column = inverse[:, gone].clone()
            weight -= torch.outer(column / column[gone], weight[gone])
            inverse -= torch.outer(column / column[gone], column)
        return np.array(kept)


@torch.no_grad()
def begin(network: RoadNetwork, original: Original, pictures: Sequence[Tensor]) -> None:
    """Give a network its first weights.

    Args:
        network: any; all weights but those of ``fresh`` are set.
        original: where they come from.
        pictures: batches, float32 [n, 3, h, w], RGB, 0 to 1, as the network will see them.
    """
    stem, pyramid, head = network.model[0], *network.model[-2:]
    first, *blocks = original.blocks()
    theirs = _each(original.stem(), pictures)
    hidden = _each(first.hidden, theirs)
    kept = Fit(hidden, _each(first.project, hidden)).choose(stem.conv.out_channels)
    patches = (functional.unfold(x, 3, padding=1, stride=2) for x in pictures)
    wide = (first.expand(x)[:, kept].flatten(2) for x in theirs)
    _set(stem.conv, *Fit(patches, wide).solve())
    _set(stem.depthwise, first.depthwise.weight[kept], first.depthwise.bias[kept])
    ours, theirs = _each(stem, pictures), _each(first, theirs)
    # Nothing stands between the original's first narrow convolution and the next wide one.
    expand = nn.Conv2d(ours[0].shape[1], blocks[0].expand.out_channels, 1)
    _set(expand, *Fit(ours, _each(blocks[0].expand, theirs)).solve())
    maps = []
    for number, (block, old) in enumerate(zip(network.blocks, blocks, strict=True), start=1):
        theirs = _each(old, theirs)
        if number == 1:
            old.expand = expand
        old.act = nn.ReLU()
        prune(block, old, ours, theirs)
        ours = _each(block, ours)
        if number in STAGES[2:]:
            maps.append((ours, theirs))
    pyramid.load_state_dict(original.pyramid().state_dict())
    for join, (mine, made) in zip(pyramid.join, maps, strict=True):
        own = slice(mine[0].shape[1])
        wanted = [functional.conv2d(x, join.weight[:, own], join.bias) for x in made]
        weight, bias = Fit(mine, wanted).solve()
        join.weight[:, own] = weight[..., None, None]
        join.bias.copy_(bias)
    joined = [pyramid([mine[i] for mine, _ in maps]) for i in range(len(pictures))]
    original.fill(head)
    original.normalise(head, [torch.cat(level) for level in zip(*joined, strict=True)])


def prune(block: Inverted, old: Inverted, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Give a block those of another's channels that it has room for.

    Args:
        block: to fill.
        old: the original's, which reads what the block does.
        ours: batches of what the block reads.
        theirs: batches of what it is to make.
    """
    wanted = (y - x if block.adds else y for x, y in zip(ours, theirs, strict=True))
    fit = Fit(map(old.hidden, ours), wanted)
    kept = fit.choose(block.project.in_channels)
    for part in ("expand", "depthwise"):
        own, other = getattr(block, part), getattr(old, part)
        _set(own, other.weight[kept], other.bias[kept])
    _set(block.project, *fit.solve(kept))


def _each(function: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> list[Tensor]:
    return [function(batch) for batch in batches]


def _set(convolution: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    convolution.weight.copy_(weight.reshape(convolution.weight.shape))
    convolution.bias.copy_(bias)
