"""Kinds of vehicles, lights and signs for a finished network, which keeps what it reports.

Intel's network knows vehicles of one kind, and easily forgets what it knows of small and far ones.
So its own outputs teach everywhere what it knew (Li and Hoiem, Learning without Forgetting, ECCV
2016), and label files teach the rest.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from model_compression.distillation.config import Recipe, Stage
from model_compression.distillation.loss import (
    BINS_WEIGHT,
    BOX_WEIGHT,
    Grid,
    assign,
    box_losses,
    flatten,
    unknown,
)
from model_compression.distillation.network import RoadNetwork, folded
from model_compression.distillation.pastes import pasted_frames
from model_compression.distillation.teacher import Map
from model_compression.distillation.training import BEGUN, Trainer
from model_compression.distillation.views import Readable, View
from model_compression.distillation.weather import worsen
from model_compression.errors import CompressionError
from model_compression.labelling.boxes import GROUPS, TWO_WHEELER, VEHICLE
from model_compression.labels import CLASSES
from model_compression.train import half_precision, to_tensor

VEHICLES, TWO_WHEELERS, PERSONS = (
    [CLASSES.index(name) for name in GROUPS[group]] for group in (VEHICLE, TWO_WHEELER, "person")
)
SIGNS = [CLASSES.index(name) for name in ("traffic light", "stop sign")]
WEIGHTS = {"kinds": 1.0, "signs": 3.0, "boxes": 2.0}
"""Of the losses of what is new: of kinds of vehicles, and of lights and signs and their boxes."""
SMOOTHING = 0.05
"""Of the labels of kinds (Szegedy et al., CVPR 2016): detectors that voted are sometimes wrong."""
BALANCE = torch.tensor([0.7, 1.2, 1.2])
"""Weights of cars, buses and trucks, of which the first are many."""


class Before:
    """The network as it was: what it reports of a picture is taught to the one that learns."""

    def __init__(self, network: RoadNetwork) -> None:
        """Take the network, whose weights must not change any more."""
        self._network = network.eval()

    @torch.no_grad()
    def maps(self, picture: NDArray[np.uint8]) -> list[Map]:
        """Return its three box and three class maps, float16 [c, h, w], of [h, w, 3] BGR."""
        return [one[0].numpy().astype(np.float16) for one in self._network(to_tensor([picture]))]


class KindsTrainer(Trainer):
    """The training of a finished network: see ``Trainer``."""

    def __init__(self, recipe: Recipe, folder: Path, network: RoadNetwork) -> None:
        """Begin, or go on with what the folder holds.

        Args:
            recipe: its ``kinds`` say how.
            folder: of the run.
            network: folded, to begin with; what it reports is kept.
        """
        own = recipe.kinds
        stage = Stage(until=own.steps, size=own.size, kept=own.kept_rate, scales=own.scales)
        changed = {"stages": (stage,), "repeats": own.repeats, "warm_up_steps": own.warm_up_steps}
        super().__init__(recipe.model_copy(update=changed), folder, deepcopy(network), begun=True)
        if not self.step:
            torch.save(network.state_dict(), folder / BEGUN)
        self._before, self._grid = Before(network), Grid(own.size)

    def _frames(self) -> Sequence[Readable]:
        recipe, rng = self.recipe, np.random.default_rng([self.recipe.seed, 4, self.step])
        return pasted_frames(recipe.frames(), recipe.pasted_sets, recipe.kinds.pasted, rng)

    def _draw(self, frames: Sequence[Readable], stage: Stage, rng: np.random.Generator) -> View:
        # What it reported before of the same picture, in the same weather, is what it can keep.
        view = super()._draw(frames, stage, rng)
        view.picture = worsen(view.picture, rng)
        return view

    def _pictures(self, views: list[View]) -> Tensor:
        return to_tensor([view.picture for view in views])

    def _teacher(self, stage: Stage) -> Before:
        return self._before

    def _losses(self, views: list[View]) -> tuple[Tensor, dict[str, Tensor]]:
        with half_precision():
            outputs = self.model(self._pictures(views))
        losses = losses_of(self._grid, outputs, views)
        kept = self.recipe.kinds.kept
        weights = {**WEIGHTS, "kept": kept, "kept_boxes": kept}
        total = torch.stack([weights[name] * one for name, one in losses.items()]).sum()
        return total, losses


def losses_of(grid: Grid, outputs: Sequence[Tensor], views: Sequence[View]) -> dict[str, Tensor]:
    """Losses of a network's maps: of what label files teach, and of what it is to keep.

    Args:
        grid: of the input.
        outputs: three box and three class maps.
        views: with the maps that the network made before.
    """
    bins, logits = flatten(outputs)
    columns = zip(*(view.maps for view in views), strict=True)
    old_bins, old = flatten([torch.from_numpy(np.stack(one)).float() for one in columns])
    target, mask = torch.zeros_like(logits[..., SIGNS]), torch.ones_like(logits[..., SIGNS])
    images, cells, classes, shares, boxes = [], [], [], [], []
    with torch.no_grad():
        boxes_px, scores = grid.boxes_px(bins), logits.sigmoid()
        # Any kind of vehicle is as good: the one that scores highest is often the wrong one.
        scores[..., VEHICLES] = scores[..., VEHICLES].amax(-1, keepdim=True)
        for index, view in enumerate(views):
            wanted, own, owner = assign(grid, scores[index], boxes_px[index], view.known)
            images.append(torch.full_like(own, index))
            cells.append(own)
            classes.append(torch.from_numpy(view.known.classes)[owner])
            shares.append(wanted[own].amax(1))
            boxes.append(torch.from_numpy(view.known.boxes)[owner])
            target[index] = wanted[:, SIGNS]
            hidden = unknown(grid, view.known)[:, SIGNS]
            mask[index] = (~hidden | (target[index] > 0)).float()
    image, cell, kind, share, around = map(torch.cat, (images, cells, classes, shares, boxes))
    vehicle, sign = (torch.isin(kind, torch.tensor(one)) for one in (VEHICLES, SIGNS))
    signs = logits[..., SIGNS]
    crossed = functional.binary_cross_entropy_with_logits(signs, target, reduction="none")
    focus = (signs.sigmoid() - target).square()
    lit, spread = box_losses(grid, bins[image, cell][sign], cell[sign], around[sign])
    box = BOX_WEIGHT * lit + BINS_WEIGHT * spread
    groups = (VEHICLES, TWO_WHEELERS, PERSONS)
    return {
        "kinds": _kinds_loss(logits[image, cell][vehicle], kind[vehicle], share[vehicle]),
        "signs": (crossed * focus * mask).sum() / target.sum().clamp(min=1),
        "boxes": (box * share[sign]).sum() / share[sign].sum().clamp(min=1),
        "kept": torch.stack([_drift(old[..., one], logits[..., one]) for one in groups]).sum(),
        "kept_boxes": _moved(old_bins, bins, old),
    }


def _kinds_loss(logits: Tensor, classes: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of the kinds of vehicles, at cells [k] that see one."""
    wanted = (classes[:, None] == torch.tensor(VEHICLES)).float().argmax(1)
    weight = shares * BALANCE[wanted]
    crossed = functional.cross_entropy(
        logits[:, VEHICLES], wanted, reduction="none", label_smoothing=SMOOTHING
    )
    return (crossed * weight).sum() / weight.sum().clamp(min=1e-6)


def _drift(old: Tensor, new: Tensor) -> Tensor:
    """How far the greatest score of a group moves, where it is worth a report."""
    before, after = old.amax(-1), new.amax(-1)
    share = before.sigmoid().sqrt()
    moved = functional.smooth_l1_loss(after, before, reduction="none", beta=0.1)
    return (share * moved).sum() / share.sum()


def _moved(old_bins: Tensor, bins: Tensor, old: Tensor) -> Tensor:
    """How far boxes move (Kullback-Leibler divergence of their bins), where road users are."""
    share = old[..., [*VEHICLES, *TWO_WHEELERS, *PERSONS]].sigmoid().amax(-1)
    before, after = old_bins.log_softmax(-1), bins.log_softmax(-1)
    apart = (before.exp() * (before - after)).sum(-1).mean(-1)
    return (share * apart).sum() / share.sum()


def read_network(folder: Path) -> RoadNetwork:
    """Read the folded network of a float model folder back.

    Raises:
        CompressionError: it holds none, or another network's.
    """
    path = next(iter(sorted(folder.glob("*.float.onnx"))), folder / "NAME.float.onnx")
    try:
        graph = onnx.load(path).graph
    except OSError as error:
        raise CompressionError(f"{path} cannot be read: {error.strerror}") from error
    stored = {
        one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer
    }
    network = folded(RoadNetwork(len(CLASSES)))
    try:
        state = {name: stored[name].reshape(x.shape) for name, x in network.state_dict().items()}
    except (KeyError, RuntimeError) as error:
        raise CompressionError(
            f"{path} holds another network than a road detector: {error}"
        ) from error
    network.load_state_dict(state)
    stem = network.model[0].conv.weight
    stem.data = stem.data.flip(1)  # the file takes blue first
    return network
