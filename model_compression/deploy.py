"""From a float network to an 8-bit model: ranges first, training for them where that is not enough.

What an 8-bit detector most often does wrong is to find nothing, without a word. So every network is
measured before it may be written: on labelled sets, against its own float form and its parent.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from model_compression.config import Config
from model_compression.errors import CompressionError, GateRefused
from model_compression.package import Variant, write_variant
from model_compression.quantization import RangeTable, measure
from model_compression.quantization.sensitivity import cost_table, fallback, sensitivity
from model_compression.screen import screen
from perception_nodes.evaluation.accuracy import evaluate
from perception_nodes.evaluation.classes import MIN_CLASS_OBJECTS, class_losses, without_evidence
from perception_nodes.evaluation.gate import check_classes
from perception_nodes.evaluation.labels import LabelledSet
from perception_nodes.networks.class_names import name_in
from perception_nodes.networks.model import load_model

SENSITIVITY_FRAMES = 16
FINETUNE_BATCH = 8

Advance = Callable[[int, int], None]


class Maker:
    """Makes 8-bit models of float ones, and measures both.

    Attributes:
        scores: mean mAP50-95 over the labelled sets, by model.
        made: the models, by name.
    """

    def __init__(
        self,
        config: Config,
        frames: list[tuple[str, np.ndarray]],
        labelled: list[LabelledSet],
        scratch: Path,
        bar: Callable[[str], Advance],
    ) -> None:
        """Take what to measure on.

        Args:
            config: of the run.
            frames: calibration frames, letterboxed: source and uint8 [height, width, 3] BGR.
            labelled: sets to measure accuracy on; without any, none is measured.
            scratch: folder for models that are only tried.
            bar: starts a progress bar of that title.
        """
        self._config, self._frames, self._labelled = config, frames, labelled
        self._scratch, self._bar = scratch, bar
        self.scores: dict[str, float] = {}
        self.made: dict[str, Variant] = {}

    def measured(self, variant: Variant) -> Variant:
        """Return a model with its accuracy."""
        folder = write_variant(variant, self._config, self._scratch)
        evaluations = []
        for data in self._labelled:
            advance = self._bar(f"{variant.name} on {data.name}")
            evaluations.append(evaluate(load_model(str(folder)), data, progress=advance))
        shutil.rmtree(folder)
        return self._kept(replace(variant, evaluations=tuple(evaluations)))

    def _kept(self, variant: Variant) -> Variant:
        self.made[variant.name] = variant
        self.scores[variant.name] = score_of(variant)
        return variant

    def quantized(self, variant: Variant, name: str) -> Variant:
        """Return the 8-bit form of a float model: ranges measured, nothing trained."""
        table = measure(variant.graph, self._frames, name)
        return self.measured(
            replace(variant, name=name, parent=variant.parent or variant.name, table=table)
        )

    def fitted(self, variant: Variant, name: str) -> Variant:
        """Return the 8-bit form of a float model, doing what it takes to keep the accuracy."""
        settings, gate = self._config.quantize, self._config.gate
        wanted = self.scores[variant.name]
        found = self.quantized(variant, name)
        if wanted - score_of(found) > settings.finetune_above and settings.finetune_steps:
            tuned = self.measured(self._finetuned(variant, found))
            if score_of(tuned) > score_of(found):
                found = tuned
        if wanted - score_of(found) > gate.max_quantization_loss:
            frames, advance = self._frames[:SENSITIVITY_FRAMES], self._bar("cost of 8 bits")
            costs = sensitivity(found.graph, found.table, frames, progress=advance)
            screen.print(cost_table(costs))

            def accuracy(table: RangeTable) -> float:
                return score_of(self.measured(replace(found, table=table)))

            least = wanted - gate.max_quantization_loss
            try:
                found = replace(found, table=fallback(found.table, costs, accuracy, least))
            except CompressionError as error:  # `pass_gate` will refuse it, with all figures
                screen.print(str(error))
            found = self.measured(found)
        return self._kept(found)

    def _finetuned(self, variant: Variant, found: Variant) -> Variant:
        """Train an 8-bit model to give the float one's outputs."""
        from model_compression.quantization.finetune import Schedule, finetune

        steps = self._config.quantize.finetune_steps
        advance = self._bar(f"{found.name} trained for 8 bits")
        graph, table = finetune(
            variant.graph,
            found.table,
            self._batches(),
            Schedule(steps=steps),
            report=lambda step, loss: advance(step + 1, steps),
        )
        return replace(found, graph=graph, table=table)

    def _batches(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(self._config.seed)
        while True:
            chosen = rng.choice(len(self._frames), FINETUNE_BATCH, replace=False)
            yield np.stack([self._frames[i][1] for i in chosen])


def score_of(variant: Variant) -> float:
    """Return the mean of a model's mAP50-95 over the sets it was measured on, 0 without any."""
    values = [found.map50_95 for found in variant.evaluations]
    return round(float(np.mean(values)), 5) if values else 0.0


def check_evidence(config: Config, unproven: Sequence[str]) -> None:
    """Refuse classes of which nobody will know whether they are found.

    Args:
        config: of the run.
        unproven: classes of which the gate's sets have too few objects.

    Raises:
        GateRefused: the configuration does not allow it.
    """
    unknown = [name for name in unproven if name not in config.gate.unproven]
    if config.gate.data and unknown:
        raise GateRefused(
            f"{config.name} has the classes {', '.join(unknown)}, and the sets of the gate have "
            f"fewer than {MIN_CLASS_OBJECTS} labelled objects of each: add a set with such objects "
            "to gate.data, or name the classes in gate.unproven"
        )


def without_labels(classes: Sequence[str], sets: Sequence[LabelledSet]) -> list[str]:
    """Name the classes that too few objects on labelled sets are of."""
    counts = Counter[str]()
    for one in sets:
        names = [name_in(classes, name) for name in one.classes]
        counts.update(names[index] for image in one.images for index in image.classes)
    return [name for name in classes if counts[name] < MIN_CLASS_OBJECTS]


def pass_gate(
    config: Config, made: dict[str, Variant], name: str, parent: str, own_float: str
) -> None:
    """Let a model through, or say why not.

    Raises:
        GateRefused: it costs more than the gate allows, in all or of one class, or there is a class
            of which nobody knows.
    """
    gate = config.gate
    if not gate.data:
        return
    now = score_of(made[name])
    for other, key in ((parent, "max_loss"), (own_float, "max_quantization_loss")):
        allowed = getattr(gate, key)
        loss = score_of(made[other]) - now
        if loss > allowed:
            raise GateRefused(
                f"{name} has mAP50-95 {now:.3f}, {loss:.3f} below {other}; the gate allows "
                f"{allowed:g}: train longer, prune less, or widen gate.{key}"
            )
    losses = class_losses(config.classes, made[parent].evaluations, made[name].evaluations)
    check_evidence(config, without_evidence(config.classes, losses))
    for check in check_classes(parent, name, losses, gate.max_class_loss):
        if check.refusal:
            raise GateRefused(check.refusal)
