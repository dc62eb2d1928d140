"""Calibration: ranges of an 8-bit model, measured on frames, and a check of what it then sees."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from model_compression.quantization import calibrate
from model_compression.trial import Trial, add_accuracy, evaluated
from perception_nodes.backends.compiled import Bar
from perception_nodes.evaluation.accuracy import Evaluation
from perception_nodes.evaluation.classes import class_losses
from perception_nodes.evaluation.diversity import CalibrationFrames, Frames, choose_frames
from perception_nodes.evaluation.gate import (
    MIN_AGREEMENT,
    GateCheck,
    Margins,
    check_classes,
    check_loss,
    comparable_parent,
)
from perception_nodes.evaluation.labels import LabelledSet
from perception_nodes.networks.model import Model, ModelRefused, load_model
from perception_nodes.system.files import write_whole

SHEET_COLUMNS, SHEET_TILE_WIDTH = 8, 208


@dataclass(frozen=True)
class Calibration:
    """The calibration of one model.

    Attributes:
        model: the model.
        table: file that the ranges are written into.
        out_model: folder of the new model; None if only the ranges are wanted.
        sets: labelled sets to compare the new and the old model on.
        max_loss: what mAP50-95 may lose on a set.
        min_agreement: least share of objects on the frames that the new model and its float model
            both see, where there are no sets; None for the usual one.
        frames_license: licence of the frames.
        bar: shows the progress of a step.
        say: prints a line for people.
    """

    model: Model
    table: Path
    out_model: Path | None
    sets: Sequence[LabelledSet]
    max_loss: float
    min_agreement: float | None
    frames_license: str
    bar: Bar
    say: Callable[[str], None]

    def run(
        self, bags: Sequence[Path], images: Sequence[Path], frames: int, sheet: Path | None
    ) -> dict[str, Any]:
        """Choose frames, measure the ranges on them, and write these and the new model.

        Args:
            bags: recorded drives.
            images: folders of images.
            frames: number of frames to choose.
            sheet: file for a contact sheet of the frames.

        Returns:
            The facts for JSON.

        Raises:
            ModelRefused: the new model loses too much; it is not written.
            ModelError, DataError: there is nothing to compare it with, or there are no frames.
            CompressionError: the model cannot be calibrated.
        """
        reference, least = self._reference()
        with self.bar("looking at frames") as progress:
            chosen = choose_frames(bags, images, frames, self.model.input, progress)
        for note in chosen.notes:
            self.say(note)
        if sheet is not None:
            write_whole(sheet, contact_sheet(chosen))
        facts = {"model": self.model.name, "table": str(self.table), **chosen.facts()}
        self.say(f"measuring the ranges of {self.model.name} on {len(chosen.frames)} frames")
        if self.out_model is None:
            calibrate(self.model.folder, chosen.frames, self.table, None)
            return facts
        with tempfile.TemporaryDirectory() as folder:
            made, ranges = Path(folder) / self.out_model.name, Path(folder) / "ranges.yaml"
            calibrate(self.model.folder, chosen.frames, ranges, made, self.frames_license)
            new = load_model(str(made))
            facts["map50_95"] = self._compare(new)
            if not self.sets and least:
                self._compare_objects(reference, new, chosen.frames, least)
            # The description comes last: it never names a file that is not there.
            for file in sorted(made.iterdir(), key=lambda file: file.name == "model.yaml"):
                write_whole(self.out_model / file.name, file.read_bytes())
            write_whole(self.table, ranges.read_bytes())
        return facts | {"out_model": str(self.out_model)}

    def _reference(self) -> tuple[Model, float]:
        """The model to compare with on frames, and the least agreement with it."""
        reference, least = self.model, MIN_AGREEMENT
        if self.out_model is not None and not self.sets and self.model.precision != "fp32":
            reference = comparable_parent(self.model, self.sets)
            least = Margins.parent_agreement
        return reference, least if self.min_agreement is None else self.min_agreement

    def _compare(self, new: Model) -> dict[str, dict[str, float]]:
        """Measure both models on the sets, and write the accuracy into the new one."""
        before, now = list[Evaluation](), list[Evaluation]()
        for one in self.sets:
            before += evaluated(self.model, [one], self.bar)
            now += evaluated(new, [one], self.bar)
            said = f"mAP50-95 {before[-1].map50_95:.4f} before, {now[-1].map50_95:.4f} now"
            self.say(f"{one.name}: {said}")
        pairs, name = list(zip(before, now, strict=True)), self.model.name
        checks = [
            check_loss(name, new.name, a.data, [a.map50_95], [b.map50_95], self.max_loss)
            for a, b in pairs
        ]
        losses = class_losses(new.classes, before, now)
        _refuse([*checks, *check_classes(name, new.name, losses, Margins.class_loss)])
        add_accuracy(new.folder, now, self.say)
        if not self.sets:
            self.say("accuracy of the new model was not measured: give --data for that")
        return {a.data: {"old": a.map50_95, "new": b.map50_95} for a, b in pairs}

    def _compare_objects(self, reference: Model, new: Model, frames: Frames, least: float) -> None:
        (check,), _ = Trial(reference, frames, [], Margins(least), self.bar).checks(new)
        _refuse([check])
        self.say(f"{check.measure}: {check.value:g}, with {check.reference}")


def contact_sheet(chosen: CalibrationFrames) -> bytes:
    """All chosen frames on one picture, JPEG, in the order of choice."""
    frames = [pixels for _, pixels in chosen.frames]
    height, width = frames[0].shape[:2]
    tile = (SHEET_TILE_WIDTH, SHEET_TILE_WIDTH * height // width)
    tiles = [cv2.resize(f, tile, interpolation=cv2.INTER_AREA) for f in frames]
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % SHEET_COLUMNS)
    rows = [np.hstack(tiles[i : i + SHEET_COLUMNS]) for i in range(0, len(tiles), SHEET_COLUMNS)]
    return bytes(cv2.imencode(".jpg", np.vstack(rows))[1])


def _refuse(checks: Sequence[GateCheck]) -> None:
    for check in checks:
        if check.refusal:
            raise ModelRefused(check.refusal)
