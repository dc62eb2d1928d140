"""From a training to model folders: one of floats, and one of 8 bits for all runtimes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from model_compression.distillation.config import Recipe
from model_compression.distillation.thresholds import best_scores, move_scores
from model_compression.distillation.training import (
    Network,
    load_weights,
    make_network,
    read_checkpoint,
    take_shapes,
)
from model_compression.export import export
from model_compression.frames import drawn, letterboxed
from model_compression.model import count_gmac
from model_compression.origin import Origin
from model_compression.package import Variant, write_variant
from model_compression.quantization import measure
from model_compression.quantization.finetune import Schedule, finetune
from perception_nodes.cli.common import progress_bar
from perception_nodes.evaluation.labels import LabelledSet
from perception_nodes.networks.model import load_model

CALIBRATION_FRAMES = 256
BATCH = 8


@dataclass(frozen=True)
class Described:
    """See ``package.Settings``."""

    size: tuple[int, int]
    classes: tuple[str, ...]
    seed: int


def load_average(recipe: Recipe, checkpoint: Path) -> tuple[Network, dict[str, dict[str, Any]]]:
    """Return the averaged network of a state or checkpoint, for inference, and how it was made.

    Raises:
        CompressionError: it is no checkpoint, or of another network.
    """
    saved = read_checkpoint(checkpoint)
    network = make_network(recipe)
    take_shapes(network, saved["average"], checkpoint)
    load_weights(network, saved["average"], checkpoint)
    start = {"start": Path(recipe.teacher).stem, "steps": saved["step"], "batch": recipe.batch}
    return network.for_inference(), {"distillation": start}


def origin_of(recipe: Recipe) -> Origin:
    """What a recipe's networks are made from, and under which terms."""
    parts = [(one.name, one.license) for one in (*recipe.teachers, *recipe.sources)]
    return Origin(recipe.license, tuple(parts))


def write_folders(
    recipe: Recipe,
    checkpoint: Path,
    name: str,
    size_px: tuple[int, int],
    models: Path,
    steps: int = 0,
    judged_by: Sequence[LabelledSet] = (),
) -> list[Path]:
    """Write model folders NAME-float and NAME, the second of 8 bits, in both dialects.

    Args:
        recipe: of the training.
        checkpoint: state or checkpoint of it; the averaged weights are taken.
        name: of the model.
        size_px: width and height of the input, which may be another than that of the training.
        models: folder that they are written into.
        steps: of quantization-aware training; 0 for measured ranges alone.
        judged_by: sets that the threshold of each class is chosen on.

    Raises:
        CompressionError: the frames cannot be used.
        DataError: a set cannot be used.
    """
    network, made = load_average(recipe, checkpoint)
    settings = Described(size_px, recipe.classes, recipe.seed)
    paths = sorted({frame.path for frame in recipe.frames()})
    frames = list(letterboxed(drawn(paths, CALIBRATION_FRAMES, recipe.seed), size_px))
    variant = Variant(
        name=f"{name}-float",
        parent=None,
        activation=network.activation,
        gmac=round(count_gmac(network, size_px), 4),
        parameters=sum(one.numel() for one in network.parameters()),
        graph=_exported(network, size_px),
        origin=origin_of(recipe),
        history=made,
    )
    if judged_by:
        with TemporaryDirectory() as scratch:
            model = load_model(str(write_variant(variant, settings, Path(scratch))))
            scores = best_scores(model, judged_by)
        move_scores(network, recipe.classes, scores)
        made["distillation"]["thresholds"] = {key: round(one, 3) for key, one in scores.items()}
        variant = replace(variant, graph=_exported(network, size_px))
    table = measure(variant.graph, frames, name)
    folders = [write_variant(variant, settings, models)]
    graph = variant.graph
    if steps:
        batches = _batches(paths, size_px, recipe.seed)
        with progress_bar(f"{name}, training for 8 bits") as progress:
            graph, table = finetune(
                graph, table, batches, Schedule(steps), lambda step, _: progress(step + 1, steps)
            )
    small = {"name": name, "parent": variant.name, "graph": graph, "table": table}
    return [*folders, write_variant(replace(variant, **small), settings, models)]


def _exported(network: Network, size_px: tuple[int, int]) -> onnx.ModelProto:
    with TemporaryDirectory() as scratch:
        return export(network, Path(scratch) / "float.onnx", size_px)


def _batches(paths: Sequence[Path], size_px: tuple[int, int], seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    while True:
        chosen = [paths[i] for i in rng.choice(len(paths), BATCH, replace=False)]
        yield np.stack([frame for _, frame in letterboxed(chosen, size_px)])
