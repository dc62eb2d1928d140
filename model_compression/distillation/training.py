"""The training: it goes on until its steps are done, and from where it was when it was stopped."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from onnx.numpy_helper import to_array
from torch import Tensor, nn

from model_compression.distillation.config import Recipe, Stage
from model_compression.distillation.hgnet import HGNetwork
from model_compression.distillation.intel import IntelNetwork
from model_compression.distillation.loss import BINS_WEIGHT, BOX_WEIGHT, Grid, label_loss
from model_compression.distillation.teacher import NoTeacher, Teaches
from model_compression.distillation.views import Pool, Readable, View, draw_view
from model_compression.distillation.weather import pictures
from model_compression.errors import CompressionError
from model_compression.train import WEIGHT_DECAY, Report, half_precision, save_state, update_average
from perception_nodes.networks.model import load_model

STATE, BEGUN = "state.pt", "begun.pt"
"""Files of a run: what it goes on from, and the weights that all its layers began to learn with."""
SAVE_EVERY_S = 120
REPORT_EVERY_STEPS = 20
REPEATS = 4
"""Batches that a view is in, in the mean, if it divides the batch."""
GREATEST_NORM = 10.0
"""Of the gradient."""

Network = IntelNetwork | HGNetwork


def make_optimizer(model: Network) -> torch.optim.Optimizer:
    """Make AdamW with the original's weights apart, decaying none of these towards 0."""
    new = {id(one) for part in model.fresh for one in part.parameters()}
    parameters = list(model.parameters())
    fresh = [one for one in parameters if id(one) in new]
    groups = [
        {"params": [one for one in fresh if one.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [one for one in fresh if one.ndim <= 1], "weight_decay": 0.0},
        {"params": [one for one in parameters if id(one) not in new], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [{**group, "kept": index == 2} for index, group in enumerate(groups)], lr=0.0
    )


def rate(recipe: Recipe, step: int, warmed_from: int) -> float:
    """Return the learning rate of a step: risen after a start, level, falling in the end."""
    left = (recipe.steps - step) / max(1, recipe.decay * recipe.steps)
    risen = (step + 1 - warmed_from) / max(1, recipe.warm_up_steps)
    return recipe.learning_rate * min(1.0, left, risen)


def make_network(recipe: Recipe) -> Network:
    """Make the network of a recipe, of random weights."""
    torch.manual_seed(recipe.seed)
    classes = len(recipe.classes)
    if recipe.network == "intel":
        return IntelNetwork(classes)
    return HGNetwork(classes, short=recipe.network == "hgnet-short")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the state of a run, a checkpoint, or a float model folder that one was made into.

    Raises:
        CompressionError: it is none.
        ModelError: the folder's file is not the one that was written.
    """
    if (path / "model.yaml").is_file():
        return _read_folder(path.resolve())
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved["step"], saved["model"], saved["average"]
    except (OSError, RuntimeError, UnpicklingError, EOFError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise CompressionError(
            f"{path} is no checkpoint ({reason}): take {STATE} of a training, or what "
            "`checkpoint` or `prune` wrote, or a model folder such as models/open-n-float"
        ) from error
    return saved


def _read_folder(folder: Path) -> dict[str, Any]:
    """Undo what the export did: its first convolution reads BGR.

    Raises:
        CompressionError: it is of 8 bits, or of no training of ours.
    """
    model = load_model(str(folder))
    made = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8")).get("made") or {}
    steps = (made.get("distillation") or {}).get("steps")
    if model.precision != "fp32":
        raise CompressionError(f"{folder} is of 8 bits; take {folder}-float")
    if steps is None:
        raise CompressionError(f"{folder} was not trained here; take one that `model` wrote")
    parts = onnx.load(model.path).graph.initializer
    weights = {part.name: torch.from_numpy(to_array(part).copy()) for part in parts}
    weights = {name: weight for name, weight in weights.items() if name.startswith("model.")}
    weights["model.0.conv.weight"] = weights["model.0.conv.weight"].flip(1)
    return {"step": steps, "model": weights, "average": weights}


def take_shapes(network: Network, state: dict[str, Tensor], source: Path) -> None:
    """Give convolutions the channels that a state has, for a network that was pruned.

    Raises:
        CompressionError: it has other classes.
    """
    last = network.model[-1].last
    for name, part in network.named_modules():
        weight = state.get(f"{name}.weight")
        if isinstance(part, nn.Conv2d) and weight is not None:
            if part in last and len(weight) != part.out_channels:
                raise CompressionError(
                    f"{source} is of {len(weight)} classes, and there are {part.out_channels}; "
                    "train anew"
                )
            into = len(weight) if part.groups > 1 else weight.shape[1]
            part.out_channels, part.in_channels = len(weight), into
            part.groups = into // weight.shape[1]
            empty = torch.empty(weight.shape)
            part.weight, part.bias = nn.Parameter(empty), nn.Parameter(torch.empty(len(empty)))


def save_checkpoint(weights: dict[str, Tensor], step: int, file: Path) -> None:
    """Write weights in half precision, whole or not at all."""
    weights = {k: v.half() if v.ndim > 1 else v for k, v in weights.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save({"step": step, "model": weights, "average": weights}, partial)
    partial.rename(file)


def load_weights(part: Any, state: dict[str, Any], source: Path) -> None:
    """Give a network or optimizer its state.

    Raises:
        CompressionError: the state is of another network.
    """
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise CompressionError(
            f"{source} is of another network than the recipe's, or its layers were joined for "
            "inference; take its own recipe and a checkpoint, or begin in a new folder"
        ) from error


class Trainer(ABC):
    """One training in a folder.

    Attributes:
        model: the student.
        average: its weights, averaged over the last steps: the network to use.
        step: steps done.
        begun: whether it has what the training begins with.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, model: Network, start: Path | None = None
    ) -> None:
        """Begin, or go on with what the folder holds.

        Args:
            recipe: what to do.
            folder: of the run.
            model: to train.
            start: checkpoint or float folder, where the run's holds nothing yet.

        Raises:
            CompressionError: what there is cannot be gone on with.
        """
        self.recipe, self._state = recipe, folder / STATE
        source = self._state if self._state.exists() else start
        self.begun = source is not None
        if source:
            saved = read_checkpoint(source)
            take_shapes(model, saved["model"], source)
            if start and source != start and _shapes(saved) != _shapes(read_checkpoint(start)):
                raise CompressionError(
                    f"{source} is of another network than {start}; begin in a new folder"
                )
            if source == start and saved["step"] >= recipe.steps:
                raise CompressionError(
                    f"{start} has {saved['step']} steps, and the recipe ends with {recipe.steps}: "
                    "let a stage of the recipe end later"
                )
        self.model = model.train().to(memory_format=torch.channels_last)
        self.average = deepcopy(self.model).eval()
        self._optimizer = make_optimizer(self.model)
        self.step = self._warmed_from = 0
        if source:
            self.step = self._warmed_from = saved.pop("step")
            self._warmed_from = saved.pop("warmed_from", self.step)
            for name in self._kept.keys() & saved.keys():
                load_weights(self._kept[name], saved[name], source)

    @property
    def _kept(self) -> dict[str, Any]:
        return {"model": self.model, "average": self.average, "optimizer": self._optimizer}

    def save(self) -> None:
        """Write what the training goes on from."""
        numbers = {"step": self.step, "warmed_from": self._warmed_from}
        save_state(self._state, numbers, self._kept)

    def begin(self, frames: Sequence[Readable], report: Report, until: Callable[[], bool]) -> bool:
        """Give a network that has learned nothing yet what the training is to begin with.

        Returns:
            Whether it was done before ``until`` said to stop; else it begins anew.
        """
        self.begun = self._prepare(frames, report, until)
        if self.begun:
            self.average.load_state_dict(self.model.state_dict())
            torch.save(self.model.state_dict(), self._state.with_name(BEGUN))
            self.save()
        return self.begun

    @abstractmethod
    def _prepare(
        self, frames: Sequence[Readable], report: Report, until: Callable[[], bool]
    ) -> bool:
        """Change the model as ``begin`` says."""

    def learn(self, views: list[View], stage: Stage) -> dict[str, float]:
        """Do a step and return its losses and the explained shares of the maps.

        Raises:
            CompressionError: the loss is no longer a number.
        """
        recipe = self.recipe
        level = rate(recipe, self.step, self._warmed_from)
        for group in self._optimizer.param_groups:
            group["lr"] = level * (stage.kept if group["kept"] else 1)
        self._optimizer.zero_grad()
        total, found = self._losses(views)
        total.backward()
        if not math.isfinite(total.item()):
            raise CompressionError(
                f"the loss became {total.item()} at step {self.step}; lower learning_rate"
            )
        nn.utils.clip_grad_norm_(self.model.parameters(), GREATEST_NORM)
        self._optimizer.step()
        update_average(self.average, self.model, self.step - self._warmed_from)
        self.step += 1
        return {name: float(value.detach()) for name, value in found.items()}

    def _frames(self) -> Sequence[Readable]:
        return self.recipe.frames()

    def _teacher(self, stage: Stage) -> Teaches:
        return NoTeacher()

    def _losses(self, views: list[View]) -> tuple[Tensor, dict[str, Tensor]]:
        images = pictures(views, np.random.default_rng([self.recipe.seed, 1, self.step]))
        with half_precision():
            outputs = self.model(images)
        grid = Grid((images.shape[3], images.shape[2]))
        classes, boxes, bins = label_loss(grid, outputs, [view.known for view in views])
        total = classes + BOX_WEIGHT * boxes + BINS_WEIGHT * bins
        return total, {"classes": classes, "boxes": boxes, "bins": bins}

    def run(self, report: Report, until: Callable[[], bool]) -> None:
        """Train until the recipe's steps are done, or ``until`` says so; then save.

        Raises:
            CompressionError: the data cannot be used, or the loss is no longer a number.
        """
        frames, begin = self._frames(), 0
        if not self.begun and not self.begin(frames, report, until):
            return
        for stage in self.recipe.stages:
            if self.step == begin:  # what learns anew is warmed up, and averaged from here on
                self._warmed_from = begin
            if self.step < stage.until and not until():
                self._run_stage(stage, frames, report, until)
            begin = stage.until
        self.save()

    def _run_stage(
        self, stage: Stage, frames: Sequence[Readable], report: Report, until: Callable[[], bool]
    ) -> None:
        recipe = self.recipe
        drawing, chosen = (np.random.default_rng([recipe.seed, i, self.step]) for i in (0, 2))
        pool = Pool(
            lambda: draw_view(frames, stage.size, stage.scales, drawing),
            self._teacher(stage),
            recipe.pool,
            2 * recipe.batch,
        )
        saved_s = reported_s = time.monotonic()
        found: list[dict[str, float]] = []
        try:
            while self.step < stage.until and not until():
                views = pool.choose(recipe.batch, REPEATS, chosen)
                found.append(self.learn(views, stage))
                now_s = time.monotonic()
                if self.step % REPORT_EVERY_STEPS == 0:
                    means = {
                        k: round(float(np.mean([one[k] for one in found])), 4) for k in found[0]
                    }
                    speed = round(len(found) * recipe.batch / (now_s - reported_s), 2)
                    report({"step": self.step, "views": pool.drawn, "images_per_s": speed, **means})
                    found, reported_s = [], now_s
                if now_s - saved_s > SAVE_EVERY_S:
                    self.save()
                    saved_s = now_s
        finally:
            pool.close()


def _shapes(saved: dict[str, Any]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in saved["model"].items()}
