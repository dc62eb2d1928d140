"""The training of a IntelNetwork: from Intel's weights and maps, and from label files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model_compression.distillation.config import Recipe, Stage
from model_compression.distillation.intel import Original
from model_compression.distillation.readers import compute_ends, train_readers
from model_compression.distillation.teacher import Teacher
from model_compression.distillation.training import Trainer, make_network
from model_compression.distillation.views import Readable, View, draw_view
from model_compression.train import Maps, Report


def explained(maps: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Share of the variance of maps [n, c, h, w] that others explain, all channels alike."""
    shares = []
    for ours, theirs in zip(maps, wanted, strict=True):
        error = (ours.float() - theirs).square().mean((0, 2, 3))
        shares.append(1 - (error / (theirs.var((0, 2, 3), correction=0) + 1e-6)).mean())
    return torch.stack(shares)


def wanted_of(views: list[View]) -> list[Tensor]:
    """Return the teacher's maps of views, float32 [n, c, h, w] each."""
    columns = zip(*(view.maps for view in views), strict=True)
    return [torch.from_numpy(np.stack(column)).float() for column in columns]


class IntelTrainer(Trainer):
    """The training of last layers, and then of all: see ``Trainer``."""

    def __init__(
        self, recipe: Recipe, folder: Path, original: Original, start: Path | None = None
    ) -> None:
        """Take the original's weights beside what ``Trainer`` takes."""
        super().__init__(recipe, folder, make_network(recipe), start)
        self._original, self._maps = original, Maps(self.model, self.model.stages[1:])

    def _prepare(
        self, frames: Sequence[Readable], report: Report, until: Callable[[], bool]
    ) -> bool:
        """Give the network the original's weights, and train its readers."""
        recipe, stage = self.recipe, self.recipe.stages[0]
        rng = np.random.default_rng([recipe.seed, 3])
        ends, known = compute_ends(
            self.model,
            self._original,
            lambda: draw_view(frames, stage.size, stage.scales, rng),
            recipe.readers.views,
            rng,
            report,
            until,
        )
        return train_readers(
            self.model, ends, known, stage.size, recipe.readers, rng, report, until
        )

    def _teacher(self, stage: Stage) -> Teacher:
        return Teacher(self.recipe.data / self.recipe.teacher, stage.size)

    def _losses(self, views: list[View]) -> tuple[Tensor, dict[str, Tensor]]:
        total, named = super()._losses(views)
        shares = explained(self._maps.all, wanted_of(views))
        total = total + self.recipe.features * (1 - shares).sum()
        return total, {**named, **{f"map_{i}": share for i, share in enumerate(shares)}}
