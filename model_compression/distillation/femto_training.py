"""The training of an HGNetwork: from the weights of DEIMv2-Femto, and from label files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from model_compression.distillation.config import Recipe
from model_compression.distillation.femto import Femto
from model_compression.distillation.pastes import pasted_frames
from model_compression.distillation.training import Trainer, make_network
from model_compression.distillation.views import Readable, draw_view
from model_compression.distillation.weather import pictures
from model_compression.train import Report

FITTED_VIEWS = 24
"""That the stem is fitted to."""


class FemtoTrainer(Trainer):
    """The training of pyramid and head, and then of all: see ``Trainer``."""

    def __init__(
        self, recipe: Recipe, folder: Path, original: Femto, start: Path | None = None
    ) -> None:
        """Take the original's weights beside what ``Trainer`` takes."""
        super().__init__(recipe, folder, make_network(recipe), start)
        self._original = original

    def _prepare(
        self, frames: Sequence[Readable], report: Report, until: Callable[[], bool]
    ) -> bool:
        """Give the network the original's weights, and fit its stem."""
        recipe, stage = self.recipe, self.recipe.stages[0]
        rng = np.random.default_rng([recipe.seed, 3])
        views = [draw_view(frames, stage.size, stage.scales, rng) for _ in range(FITTED_VIEWS)]
        explained = self._original.fill(self.model, pictures(views, rng))
        report({"step": 0, "of the stem": round(explained, 4)})
        return True

    def _frames(self) -> Sequence[Readable]:
        recipe, rng = self.recipe, np.random.default_rng([self.recipe.seed, 4, self.step])
        return pasted_frames(recipe.frames(), recipe.pasted_sets, recipe.pasted, rng)
