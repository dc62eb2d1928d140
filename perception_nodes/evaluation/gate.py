"""The check that a compiled model detects what it should.

Two things can be wrong, and each has its own reference. The *model* may have lost its accuracy when
it was pruned and quantized: its FP32 parent still has it. The *runtime* may compute something else
than the file says: the integer golden model, which reads the same file, is the definition. Neither
reference can replace the other: the golden model repeats the faults of the file, and a smaller
model need not detect all that its parent does.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.compiled import Bar, Compiled, CompiledRefused
from perception_nodes.backends.contract import Backend, BackendSettings, open_model
from perception_nodes.core.decode import AbsurdOutput, DecodeSettings
from perception_nodes.core.frame import Detections
from perception_nodes.core.geometry import pairwise_iou
from perception_nodes.core.inference import BackendError
from perception_nodes.evaluation import classes
from perception_nodes.evaluation.accuracy import Evaluation, evaluate
from perception_nodes.evaluation.detector import renumbered
from perception_nodes.evaluation.labels import DataError, LabelledSet
from perception_nodes.networks.class_names import indices_of
from perception_nodes.networks.model import Model, ModelError, load_model

SURE_SCORE = DecodeSettings.score_threshold + 0.05
"""An object with a lower score may fall below the threshold of reporting by rounding alone."""
SAME_IOU = 0.5


@dataclass(frozen=True)
class Agreement:
    """How many of the sure objects of two networks both of them detect.

    Attributes:
        reference: number of sure objects of the reference.
        other: number of sure objects of the other network.
        shared: how many of all these are also reported by the respective other network.
    """

    reference: int
    other: int
    shared: int

    @property
    def share(self) -> float:
        """Share of all sure objects that both detect; 0 if there are none."""
        return self.shared / max(self.reference + self.other, 1)


def detect(
    model: Model,
    backend: Backend,
    frames: Sequence[NDArray[np.uint8]],
    progress: Callable[[int, int], None] | None = None,
) -> list[Detections]:
    """Objects as the run time reports them, in pixels of the network's input.

    Args:
        model: the model.
        backend: the runtime, with the model loaded.
        frames: uint8 [height, width, 3] BGR each, letterboxed to the model's input.
        progress: called with the number of frames done and the number of all frames.

    Raises:
        BackendError: the runtime failed, or its output cannot be that of a detector.
    """
    decoder = model.decoder(DecodeSettings())
    found = []
    for done, frame in enumerate(frames, start=1):
        heads = backend.infer(frame)
        try:
            found.append(decoder.decode(heads.boxes, heads.classes))
        except AbsurdOutput as error:
            raise BackendError(f"{model.path}: {error}") from error
        if progress is not None:
            progress(done, len(frames))
    return found


def in_classes_of(model: Model, other: Model, found: Sequence[Detections]) -> list[Detections]:
    """Detections of another model in this model's classes; those without a class are dropped."""
    if model.classes == other.classes:  # even if two of them differ only in spelling
        return list(found)
    indices = [indices_of([name], model.classes) for name in other.classes]
    table = np.array([index[0] if index else -1 for index in indices], np.int64)
    return [renumbered(one, table) for one in found]


def agreement(reference: Sequence[Detections], other: Sequence[Detections]) -> Agreement:
    """Compare detections on the same frames, in the same classes.

    Both directions count, since a network that detects nothing contradicts nothing.
    """
    ours = theirs = shared = 0
    for one, two in zip(reference, other, strict=True):
        same = _same(one, two)
        for sure, seen in ((one.scores, same.any(axis=1)), (two.scores, same.any(axis=0))):
            shared += int(np.count_nonzero((sure >= SURE_SCORE) & seen))
        ours += int(np.count_nonzero(one.scores >= SURE_SCORE))
        theirs += int(np.count_nonzero(two.scores >= SURE_SCORE))
    return Agreement(ours, theirs, shared)


def _same(one: Detections, two: Detections) -> NDArray[np.bool_]:
    """Whether an object of one is that of the other, for every pair, bool [n, m]."""
    overlap = pairwise_iou(one.boxes.astype(np.float64), two.boxes.astype(np.float64))
    same: NDArray[np.bool_] = overlap >= SAME_IOU
    same &= one.classes[:, None] == two.classes[None]
    return same


MIN_OBJECTS = 20
"""Least number of sure objects of model and reference together; a share of fewer says nothing."""
MIN_MAP50_95 = 0.01
"""Least mAP50-95 on a set of the better of two models: below it a loss cannot be measured."""
MIN_AGREEMENT = 0.8
"""Least agreement of a network in 8 bits with itself in float."""
REFERENCES = ("golden", "onnxruntime", "openvino")
"""Runtimes to compare another one with, the best first."""
BLAME = ("runtime", "model", "frames")
REMEDIES = {
    "model": "calibrate it on frames like these (perception model calibrate), have its worst "
    "layers kept in higher precision (perception model compress), or widen the margin where a "
    "smaller model is meant to see less",
    "runtime": "the runtime does not compute what the file says: take another version of it, or "
    "another --backend",
}
Fault = Literal["", "model", "runtime", "frames"]


@dataclass(frozen=True)
class Margins:
    """How far a model may be from its references.

    Attributes:
        agreement: least share of sure objects that the model and the golden model both detect.
        parent_agreement: least share that the model and its FP32 parent both detect; only without
            labels.
        loss: how far mAP50-95 may be below the parent's, as a mean over the sets.
        class_loss: how far AP50 or recall of one class may be below the parent's.
    """

    agreement: float = 0.9
    parent_agreement: float = 0.3
    loss: float = 0.03
    class_loss: float = 0.1


@dataclass(frozen=True)
class GateCheck:
    """One comparison and its verdict.

    Attributes:
        reference: what the model was compared with.
        measure: what was measured, and on what.
        value: the measured figure.
        limit: the smallest value allowed, or the largest if the value is a loss.
        refusal: what to tell the user if the value is beyond the limit; empty if it is not.
        at_fault: what has to be changed in that case.
    """

    reference: str
    measure: str
    value: float
    limit: float
    refusal: str = ""
    at_fault: Fault = ""


@dataclass
class Gate:
    """The checks that a compiled model has to pass.

    Attributes:
        model: the model.
        backend: name of the runtime that it was compiled for.
        threads: number of threads for inference.
        frames: uint8 [height, width, 3] BGR each, letterboxed to the model's input.
        sets: labelled sets; without any, the detections on the frames are compared instead.
        margins: how far the model may be from its references.
        bar: shows the progress.
        parent: the FP32 model that the model was made from.
        checks: the checks made so far.
        notes: what a reader of the checks should know.
    """

    model: Model
    backend: str
    threads: int
    frames: Sequence[NDArray[np.uint8]]
    sets: Sequence[LabelledSet]
    margins: Margins
    bar: Bar
    parent: Model = field(init=False)
    checks: list[GateCheck] = field(init=False, default_factory=list)
    notes: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Check that there is something to compare with.

        Raises:
            ModelError: the model names no parent, or its parent is missing.
            DataError: the model can be compared on labelled images only, and none are given.
        """
        self.parent = comparable_parent(self.model, self.sets)

    @property
    def failed(self) -> GateCheck | None:
        """The check that is the reason for refusing the model; None if it passed all.

        A wrong runtime fails the comparison with the parent too, so the runtime is blamed first.
        Too few objects come last, because another check may have had enough of them.
        """
        refused = [check for check in self.checks if check.at_fault]
        return min(refused, key=lambda check: BLAME.index(check.at_fault), default=None)

    def judge(self, made: Compiled) -> None:
        """Compare a compiled model with its references.

        Raises:
            CompiledRefused: the model is too far from a reference, or fails on a frame.
            BackendError: a reference failed.
        """
        try:
            with self.bar(f"{self.model.name} on {self.backend}") as progress:
                found = detect(self.model, made.backend, self.frames, progress)
        except BackendError as error:
            raise CompiledRefused(str(error)) from error
        if self.sets:
            self.checks += self._losses(str(made.folder))
        elif self.parent is not self.model:
            least = self.margins.parent_agreement
            self.checks.append(self._agreement("model", self.parent, found, least))
        least = self.margins.agreement
        self.checks.append(self._agreement("runtime", self.model, found, least))
        if self.failed is not None:
            raise CompiledRefused(self.failed.refusal)

    def _losses(self, folder: str) -> list[GateCheck]:
        """Compare accuracy with the parent's; the compiled model is in the folder."""
        runtime = _references(self.parent, self.backend)[0]
        before = [self._evaluation(self.parent, runtime, data) for data in self.sets]
        now = [self._evaluation(self.model, self.backend, data, folder) for data in self.sets]
        reference = f"{self.parent.name} on {runtime}"
        checks, losses = check_accuracy(reference, self.model, before, now, self.margins)
        if unproven := classes.without_evidence(self.model.classes, losses):
            self.notes.append(
                classes.evidence_note(unproven, ", ".join(one.name for one in self.sets))
            )
        return checks

    def _evaluation(
        self, model: Model, backend: str, data: LabelledSet, cache_dir: str = ""
    ) -> Evaluation:
        with self.bar(f"{model.name} on {backend}, {data.name}") as progress:
            return evaluate(model, data, backend, self.threads, progress, cache_dir)

    def _agreement(
        self,
        judged: Literal["model", "runtime"],
        reference: Model,
        found: Sequence[Detections],
        least: float,
    ) -> GateCheck:
        """Compare the objects on the frames with those of another model or another runtime."""
        name, other = self.reference_objects(reference)
        compared = agreement(in_classes_of(self.model, reference, other), found)
        who, frames = f"{reference.name} on {name}", len(self.frames)
        return check_agreement(judged, who, self.model.name, frames, compared, least)

    def reference_objects(self, model: Model) -> tuple[str, list[Detections]]:
        """Objects on the frames, in the best runtime that can be compared with, and its name."""
        reasons = []
        for name in _references(model, self.backend):
            with ExitStack() as stack:
                settings = BackendSettings(self.threads)
                try:
                    backend = stack.enter_context(open_model(name, model, settings))
                except BackendError as error:
                    reasons.append(f"{model.name} is not compared with {name}: {error}")
                    continue
                self.notes += reasons
                progress = stack.enter_context(self.bar(f"{model.name} on {name}"))
                return name, detect(model, backend, self.frames, progress)
        raise BackendError("; ".join(reasons))


def parent_of(model: Model) -> Model:
    """The FP32 model that a model is compared with; a float model without a parent is its own.

    Raises:
        ModelError: an 8-bit model names no parent, or its parent is missing or no FP32 model.
    """
    file = model.folder / "model.yaml"
    if not model.parent and model.precision == "fp32":
        return model
    if not model.parent:
        raise ModelError(
            f"{file} names no parent, so nothing tells what {model.precision} cost; add "
            "`parent: NAME`, the FP32 model that it was made from"
        )
    beside = model.folder.parent / model.parent
    parent = load_model(str(beside) if beside.is_dir() else model.parent)
    if parent.folder == model.folder or parent.precision != "fp32":
        what = "itself" if parent.folder == model.folder else parent.precision
        raise ModelError(
            f"{file} names the parent {model.parent}, and {parent.folder} is {what}: nothing would "
            f"tell what {model.precision} cost; name the FP32 model that it was made from, and "
            "give each model a name of its own"
        )
    return parent


def comparable_parent(model: Model, sets: Sequence[LabelledSet]) -> Model:
    """See `parent_of`; without labelled sets it must have the model's input.

    Raises:
        ModelError: see `parent_of`.
        DataError: it has another input.
    """
    parent = parent_of(model)
    if not sets and parent.input != model.input:
        raise DataError(
            f"{model.name} and its parent {parent.name} have inputs of different sizes and are "
            "compared on labelled images only; give --data"
        )
    return parent


def check_agreement(
    judged: Literal["model", "runtime"],
    reference: str,
    model: str,
    frames: int,
    found: Agreement,
    least: float,
) -> GateCheck:
    """Judge how close the detections of a model are to those of its reference.

    Args:
        judged: what is at fault if they are not close enough.
        reference: name of the reference.
        model: name of the model, which is the other network of the agreement.
        frames: number of frames.
        found: agreement of the two.
        least: least share of the sure objects that both must detect.
    """
    objects = found.reference + found.other
    measure = f"share seen by both of {objects} objects on {frames} frames"
    check = partial(GateCheck, reference, measure, round(found.share, 4), least)
    said = (
        f"on {frames} frames {model} is sure of {found.other} objects, {reference} of "
        f"{found.reference}"
    )
    if objects < MIN_OBJECTS:
        return check(
            f"too few objects to compare: {said}, so it cannot be judged; {MIN_OBJECTS} "
            "are needed in all: give more --frames, or frames of traffic with --bag or --images",
            "frames",
        )
    if found.share < least:
        seen = f"of all these both see {found.share:.0%}, {least:.0%} are wanted"
        return check(f"{said}; {seen}; {REMEDIES[judged]}", judged)
    return check()


def check_accuracy(
    reference: str,
    model: Model,
    before: Sequence[Evaluation],
    now: Sequence[Evaluation],
    margins: Margins,
) -> tuple[list[GateCheck], list[classes.ClassLoss]]:
    """Judge what a model loses on labelled sets, in all and of each class.

    Args:
        reference: name of the reference.
        model: the model.
        before: the reference's evaluations, set by set.
        now: the model's, on the same sets.
        margins: what may be lost.
    """
    data = ", ".join(one.data for one in now)
    old, new = ([one.map50_95 for one in each] for each in (before, now))
    whole = check_loss(reference, model.name, data, old, new, margins.loss)
    losses = classes.class_losses(model.classes, before, now)
    return [whole, *check_classes(reference, model.name, losses, margins.class_loss)], losses


def check_loss(
    reference: str,
    model: str,
    data: str,
    before: Sequence[float],
    now: Sequence[float],
    most: float,
) -> GateCheck:
    """Judge how much accuracy a model loses against its reference.

    Args:
        reference: name of the reference.
        model: name of the model.
        data: names of the sets.
        before: mAP50-95 of the reference on each set.
        now: mAP50-95 of the model on each set.
        most: largest loss allowed, as a mean over the sets.
    """
    old, new = (float(np.mean(values)) for values in (before, now))
    loss, found = round(old - new, 5), min(map(max, zip(before, now, strict=True)))
    check = partial(GateCheck, reference, f"mAP50-95 lost on {data}", loss, most)
    if found < MIN_MAP50_95:
        return check(
            f"{reference} and {model} have mAP50-95 of {found:.4f} at most on a set of "
            f"{data}, so nothing tells what is lost there; give sets of what they detect",
            "frames",
        )
    if not loss <= most:  # refuses NaN too
        return check(
            f"{model} has mAP50-95 {new:.4f} on {data}, {loss:.4f} below {reference}; {most:g} "
            f"may be lost; {REMEDIES['model']}",
            "model",
        )
    return check()


def check_classes(
    reference: str, model: str, losses: Sequence[classes.ClassLoss], most: float
) -> list[GateCheck]:
    """Judge what a model loses of each class that there is evidence of.

    Args:
        reference: name of the reference.
        model: name of the model.
        losses: the losses by class.
        most: largest loss of AP50 or recall allowed.
    """
    checks = []
    for one in losses:
        if one.objects < classes.MIN_CLASS_OBJECTS:
            continue
        data = ", ".join(one.data)
        measure = f"AP50 or recall of {one.name} lost, {one.objects} objects on {data}"
        check = GateCheck(reference, measure, round(one.loss, 5), most)
        if one.loss > most:
            refusal = (
                f"{model} loses {one.name}: of {one.objects} objects on {data} it reports "
                f"{one.recall[1]:.0%}, {reference} {one.recall[0]:.0%}; AP50 is {one.map50[1]:.3f} "
                f"after {one.map50[0]:.3f}, and {most:g} may be lost of either; train on more "
                "images of that class, or prune less"
            )
            check = replace(check, refusal=refusal, at_fault="model")
        checks.append(check)
    return checks


def _references(model: Model, other_than: str) -> list[str]:
    """Runtimes to compare with; the golden model is defined for 8-bit models only."""
    unfit = {other_than, "golden"} if model.precision == "fp32" else {other_than}
    return [name for name in REFERENCES if name not in unfit]
