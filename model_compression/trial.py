"""The comparison of an 8-bit model with the float one, on frames and on labelled sets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from model_compression.frames import Frames
from perception_nodes.backends.compiled import Bar
from perception_nodes.backends.contract import open_model
from perception_nodes.evaluation.accuracy import Evaluation, evaluate
from perception_nodes.evaluation.classes import class_losses, evidence_note, without_evidence
from perception_nodes.evaluation.gate import (
    GateCheck,
    Margins,
    agreement,
    check_accuracy,
    check_agreement,
    detect,
    in_classes_of,
)
from perception_nodes.evaluation.labels import LabelledSet
from perception_nodes.networks.model import Model
from perception_nodes.system.files import write_whole


@dataclass
class Trial:
    """Compares 8-bit networks with the float one.

    Attributes:
        parent: the float model.
        frames: to compare on.
        sets: labelled ones to compare on.
        margins: how far the 8-bit network may be from the float one.
        bar: shows the progress.
    """

    parent: Model
    frames: Frames
    sets: Sequence[LabelledSet]
    margins: Margins
    bar: Bar
    _evaluations: list[Evaluation] = field(default_factory=list)
    _found: list[Any] = field(default_factory=list)

    def checks(self, model: Model) -> tuple[list[GateCheck], list[Evaluation]]:
        """What was compared, and the evaluations of the 8-bit model on the sets."""
        if not self._found:
            self._found = self._objects(self.parent)
            self._evaluations = evaluated(self.parent, self.sets, self.bar)
        seen = agreement(in_classes_of(model, self.parent, self._found), self._objects(model))
        least = self.margins.agreement
        name, count = self.parent.name, len(self.frames)
        checks = [check_agreement("model", name, model.name, count, seen, least)]
        now = evaluated(model, self.sets, self.bar)
        if self.sets:
            checks += check_accuracy(name, model, self._evaluations, now, self.margins)[0]
        return checks, now

    @property
    def before(self) -> list[Evaluation]:
        """The evaluations of the float model."""
        return self._evaluations

    def _objects(self, model: Model) -> list[Any]:
        with (
            open_model("openvino", model) as backend,
            self.bar(f"{model.name} on {len(self.frames)} frames") as progress,
        ):
            return detect(model, backend, [frame for _, frame in self.frames], progress)


def evaluated(model: Model, sets: Sequence[LabelledSet], bar: Bar) -> list[Evaluation]:
    """Measure a model's accuracy on several sets, and show the progress of each."""
    found = []
    for data in sets:
        with bar(f"{model.name} on {data.name}") as progress:
            found.append(evaluate(model, data, progress=progress))
    return found


def add_accuracy(
    folder: Path, evaluations: Sequence[Evaluation], say: Callable[[str], None] = lambda _: None
) -> None:
    """Write what was measured into a model's description.

    Args:
        folder: of the model.
        evaluations: of the model, set by set.
        say: tells people which classes were not measured.
    """
    if evaluations:
        description = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
        description["accuracy"] = {found.data: found.facts() for found in evaluations}
        objects = class_losses(description["classes"], evaluations, evaluations)
        unproven = without_evidence(description["classes"], objects)
        if unproven:
            say(evidence_note(unproven, ", ".join(found.data for found in evaluations)))
        description["without_evidence"] = unproven
        text = yaml.safe_dump(description, sort_keys=False, width=100, allow_unicode=True)
        write_whole(folder / "model.yaml", text)
