"""The training: it goes on until its steps are done, and from where it was when it was stopped."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from model_compression.distillation.config import Recipe, Stage
from model_compression.distillation.loss import BINS_WEIGHT, BOX_WEIGHT, Grid, label_loss
from model_compression.distillation.teacher import CHANNELS, ZOOM, Teacher
from model_compression.distillation.views import Frame, Pool, View, draw_view
from model_compression.distillation.weather import worsen
from model_compression.errors import CompressionError
from model_compression.plain import PlainNetwork
from model_compression.train import (
    Maps,
    half_precision,
    make_optimizer,
    map_channels,
    rounded_weights,
    save_state,
    to_tensor,
    update_average,
)

STATE = "state.pt"
SAVE_EVERY_S = 120
REPORT_EVERY_STEPS = 20
GREATEST_NORM = 10.0
"""Of the gradient."""

Report = Callable[[dict[str, Any]], None]
"""Takes step, images seen, images a second and the mean losses of the last steps."""


class Adapters(nn.Module):
    """A 1 x 1 convolution for each map, which makes the teacher's channels of the student's."""

    def __init__(self, channels: list[int]) -> None:
        """Take the channels of the student's maps."""
        super().__init__()
        pairs = zip(channels, CHANNELS, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(ours, theirs, 1) for ours, theirs in pairs)
        for adapter in self.convolutions:  # else most of the first gradient is its own noise
            nn.init.normal_(adapter.weight, std=0.01)

    def forward(self, maps: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """Compare maps [n, c, h, w]: explained share of the variance, channels alike, [maps]."""
        shares = []
        for adapter, ours, theirs in zip(self.convolutions, maps, wanted, strict=True):
            error = (adapter(ours).float() - theirs).square().mean((0, 2, 3))
            variance = theirs.var((0, 2, 3), correction=0)
            shares.append(1 - (error / (variance + 1e-6)).mean())
        return torch.stack(shares)


def rate(recipe: Recipe, step: int, warmed_from: int) -> float:
    """Return the learning rate of a step: risen after a start, level, falling in the end."""
    left = (recipe.steps - step) / max(1, recipe.decay * recipe.steps)
    risen = (step + 1 - warmed_from) / max(1, recipe.warm_up_steps)
    return recipe.learning_rate * min(1.0, left, risen)


def make_network(recipe: Recipe) -> PlainNetwork:
    """Make the network of a recipe, of random weights."""
    torch.manual_seed(recipe.seed)
    return PlainNetwork(recipe.network, recipe.activation, len(recipe.classes))


def pictures(views: list[View], rng: np.random.Generator) -> Tensor:
    """Return what the student sees of views, float32 [n, 3, h, w], RGB, 0 to 1."""
    height, width, _ = views[0].picture.shape
    size_px = width // ZOOM, height // ZOOM
    small = [cv2.resize(view.picture, size_px, interpolation=cv2.INTER_AREA) for view in views]
    return to_tensor([worsen(np.asarray(one, np.uint8), rng) for one in small])


class Trainer:
    """One training in a folder.

    Attributes:
        model: the student.
        average: its weights, averaged over the last steps: the network to use.
        step: steps done.
    """

    def __init__(self, recipe: Recipe, folder: Path, start: Path | None = None) -> None:
        """Begin, or go on with what the folder holds.

        Args:
            recipe: what to do.
            folder: of the run.
            start: weights of a checkpoint, where the folder holds nothing yet.
        """
        self.recipe, self._state = recipe, folder / STATE
        self.model = make_network(recipe).train().to(memory_format=torch.channels_last)
        self.average = deepcopy(self.model).eval()
        self.adapters = Adapters(map_channels(self.model))
        self._optimizer = make_optimizer([self.model, self.adapters], recipe.weight_decay)
        self._maps = Maps(self.model)
        self.step = self._warmed_from = 0
        source = self._state if self._state.exists() else start
        if source:
            saved = torch.load(source, map_location="cpu", weights_only=True)
            self.step = self._warmed_from = saved.pop("step")
            self._warmed_from = saved.pop("warmed_from", self.step)
            for name, value in saved.items():
                self._kept[name].load_state_dict(value)

    @property
    def _kept(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "average": self.average,
            "adapters": self.adapters,
            "optimizer": self._optimizer,
        }

    def save(self) -> None:
        """Write what the training goes on from."""
        save_state(self._state, self.step, self._warmed_from, self._kept)

    def learn(self, views: list[View]) -> dict[str, float]:
        """Do a step and return its losses and the explained shares of the maps.

        Raises:
            CompressionError: the loss is no longer a number.
        """
        recipe = self.recipe
        for group in self._optimizer.param_groups:
            group["lr"] = rate(recipe, self.step, self._warmed_from)
        self._optimizer.zero_grad()
        falls = self.step >= recipe.steps * (1 - recipe.decay)
        with rounded_weights(self.model, recipe.weight_bits) if falls else nullcontext():
            total, losses = self._losses(views)
            total.backward()
        if not math.isfinite(total.item()):
            raise CompressionError(f"the loss became {total.item()} at step {self.step}")
        nn.utils.clip_grad_norm_(self.model.parameters(), GREATEST_NORM)
        self._optimizer.step()
        update_average(self.average, self.model, self.step)
        self.step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _losses(self, views: list[View]) -> tuple[Tensor, dict[str, Tensor]]:
        recipe = self.recipe
        images = pictures(views, np.random.default_rng([recipe.seed, 1, self.step]))
        grid = Grid(images.shape[:1:-1])
        columns = zip(*(view.maps for view in views), strict=True)
        wanted = [torch.from_numpy(np.stack(column)).float() for column in columns]
        with half_precision():
            outputs = self.model(images)
            shares = self.adapters(self._maps.all, wanted)
        classes, boxes, bins = label_loss(grid, outputs, [view.known for view in views])
        total = classes + BOX_WEIGHT * boxes + BINS_WEIGHT * bins
        total = total + recipe.features * (1 - shares).sum()
        named = {f"map_{i}": share for i, share in enumerate(shares)}
        return total, {"classes": classes, "boxes": boxes, "bins": bins, **named}

    def run(self, report: Report, until: Callable[[], bool]) -> None:
        """Train until the recipe's steps are done, or ``until`` says so; then save.

        Raises:
            CompressionError: the data cannot be used, or the loss is no longer a number.
        """
        frames = self.recipe.frames()
        for stage in self.recipe.stages:
            if self.step < stage.until and not until():
                self._run_stage(stage, frames, report, until)
        self.save()

    def _run_stage(
        self, stage: Stage, frames: list[Frame], report: Report, until: Callable[[], bool]
    ) -> None:
        recipe = self.recipe
        drawing, chosen = (np.random.default_rng([recipe.seed, i, self.step]) for i in (0, 2))
        teacher = Teacher(recipe.data / recipe.teacher, stage.size)
        pool = Pool(
            lambda: draw_view(frames, stage.size, stage.scales, drawing),
            teacher,
            recipe.pool,
            2 * recipe.batch,
        )
        saved_s = reported_s = time.monotonic()
        found: list[dict[str, float]] = []
        while self.step < stage.until and not until():
            pool.wait_for(recipe.batch)
            pool.allow(recipe.batch // recipe.repeats)
            drawn = chosen.choice(len(pool.views), recipe.batch, replace=False)
            found.append(self.learn([pool.views[i] for i in drawn]))
            now_s = time.monotonic()
            if self.step % REPORT_EVERY_STEPS == 0:
                means = {k: round(float(np.mean([one[k] for one in found])), 4) for k in found[0]}
                speed = round(len(found) * recipe.batch / (now_s - reported_s), 2)
                report({"step": self.step, "views": pool.drawn, "images_per_s": speed, **means})
                found, reported_s = [], now_s
            if now_s - saved_s > SAVE_EVERY_S:
                self.save()
                saved_s = now_s
