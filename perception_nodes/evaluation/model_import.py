"""The import of a detector: read, rewritten, tried on frames, and quantized if that is wanted."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception_nodes.backends.compiled import Bar
from perception_nodes.backends.contract import open_model
from perception_nodes.core.errors import listed
from perception_nodes.core.frame import Detections
from perception_nodes.evaluation.compression_tools import compression_tool
from perception_nodes.evaluation.diversity import Frames, choose_frames
from perception_nodes.evaluation.gate import GateCheck, Margins, detect
from perception_nodes.evaluation.labels import LabelledSet
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.exported import CHECKPOINTS
from perception_nodes.networks.importer import Imported, ImportOptions, understand, write_model
from perception_nodes.networks.model import Model, ModelError, ModelRefused, load_model
from perception_nodes.networks.two_runtimes import tell_if_slow
from perception_nodes.system.files import staged

NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,30}")
FLOAT = "-float"
"""Ending of the name of the float model beside an 8-bit one."""


@dataclass(frozen=True)
class ModelImport:
    """The import of one file.

    Attributes:
        file: the trained detector: see `FORMATS` and `CHECKPOINTS`.
        name: name of the model.
        out: folder of models that its folder is written into.
        options: what the user says of the file.
        bags, images: drives and folders of images to try it on, and to quantize on.
        frames: number of frames to take from them.
        int8: whether to quantize it to 8 bits.
        sets: labelled sets to compare 8 bits with float on.
        margins: how far 8 bits may be from float.
        frames_license: licence of the frames.
        bar: shows the progress of a step.
        say: prints a line for people.
    """

    file: Path
    name: str
    out: Path
    options: ImportOptions
    bags: Sequence[Path]
    images: Sequence[Path]
    frames: int
    int8: bool
    sets: Sequence[LabelledSet]
    margins: Margins
    frames_license: str
    bar: Bar
    say: Callable[[str], None]

    @np.errstate(all="ignore")  # what overflows is refused, in words
    def run(self) -> tuple[Model, str, list[GateCheck]]:
        """Write the model; return it, the name of its head, and the checks of its 8 bits.

        Raises:
            SettingsError: an option is needed, or does not fit.
            ModelError: the file cannot be used.
            ModelRefused: the model is damaged, or 8 bits lose too much.
            OSError: the model cannot be written.
        """
        names = [f"{self.name}{FLOAT}", self.name] if self.int8 else [self.name]
        self._check(names)
        # What is missing is said before the search for frames.
        quantize = compression_tool("model_compression.imported") if self.int8 else None
        imported = self._understood()
        if self.int8 and imported.exported.quantized:
            raise SettingsError(f"{self.file} is quantized already; leave --int8 out")
        checks: list[GateCheck] = []
        with staged(self.out, last=self.name) as folder:
            model = write_model(imported, folder / names[0], open_model)
            if frames := self._chosen_frames(model):
                self._try(model, frames, dead=bool(imported.exported.dead))
            if quantize is not None:
                trial = quantize.Trial(model, frames, self.sets, self.margins, self.bar)
                checks = quantize.quantize_imported(
                    model, folder / self.name, trial, self.say, self.frames_license
                )
            tell_if_slow(load_model(str(folder / self.name)), open_model, self.say)
            self._check_free(names)  # another import may have been faster
        return load_model(str(self.out / self.name)), imported.head.name, checks

    def _check(self, names: Sequence[str]) -> None:
        for name in names:
            if not NAME.fullmatch(name):
                raise SettingsError(
                    f"{name!r} cannot name a model: letters, digits and '._-', at most 31; give "
                    "--name"
                )
        self._check_free(names)
        if self.int8 and not (self.bags or self.images):
            raise SettingsError(
                "--int8 needs frames like those it is to work on: --bag or --images"
            )
        if self.int8 and self.file.suffix.lower() in (".xml", ".tflite"):
            raise SettingsError("--int8 needs the detector as ONNX, not for OpenVINO or TFLite")

    def _check_free(self, names: Sequence[str]) -> None:
        for folder in (self.out / name for name in names):
            if folder.exists():
                raise SettingsError(f"{folder} is there already; give another --name, or remove it")

    def _understood(self) -> Imported:
        """Read the file, and say what it is."""
        with tempfile.TemporaryDirectory() as scratch:
            onnx_file = None
            if self.file.suffix.lower() in CHECKPOINTS:
                export = compression_tool("model_compression.exporters.start", "export_checkpoint")
                self.say(f"{self.file.name} is exported to ONNX")
                onnx_file = export(self.file, self.options.size, Path(scratch))
            imported = understand(self.file, self.options, onnx_file)
        exported, dead = imported.exported, imported.exported.dead
        zeros = f"the weights of {len(dead)} convolutions are all zero ({listed(dead)})"
        if dead and not (self.bags or self.images):
            raise ModelError(
                f"{self.file}: {zeros}: it is damaged; export or copy it again. If it is meant to "
                "be so, let it show with --bag or --images that it finds objects"
            )
        for note in [*imported.notes, *[zeros][: len(dead)]]:
            self.say(note)
        self.say(
            f"{self.file.name} is {imported.head.head.title}: {len(imported.classes)} classes, "
            f"input {exported.width}x{exported.height}; licence of the weights: {imported.license}"
        )
        return imported

    def _chosen_frames(self, model: Model) -> Frames:
        """Frames of the drives and folders that differ from each other."""
        if not (self.bags or self.images):
            return []
        with self.bar("looking at frames") as progress:
            chosen = choose_frames(self.bags, self.images, self.frames, model.input, progress)
        for note in chosen.notes:
            self.say(note)
        return chosen.frames

    def _try(self, model: Model, frames: Frames, dead: bool) -> None:
        """Say what a model finds in frames, and refuse one that is damaged."""
        with (
            open_model("openvino", model) as backend,
            self.bar(f"{model.name} on {len(frames)} frames") as progress,
        ):
            found = detect(model, backend, [frame for _, frame in frames], progress)
        self.say(f"it finds in {len(frames)} frames: {objects_in(model, found, dead)}")


def objects_in(model: Model, found: Sequence[Detections], dead: bool) -> str:
    """How many objects of which classes were found.

    Args:
        model: the model.
        found: its detections on each frame.
        dead: whether it has convolutions of zeros; then what it finds has to change.

    Raises:
        ModelRefused: it finds nothing, or has dead convolutions and finds the same in all frames.
    """
    counts = Counter(model.classes[label] for one in found for label in one.classes.tolist())
    if not counts:
        raise ModelRefused(
            f"{model.name} finds nothing in {len(found)} frames: its weights are damaged, it "
            "expects other pixels (--color, --mean, --std), or nothing that it knows is there: "
            "give --bag or --images that show its classes"
        )
    if dead and all(_alike(found[0], one) for one in found):
        raise ModelRefused(
            f"{model.name} finds the same in all {len(found)} frames, and convolutions of it are "
            "all zero: it is damaged; export or copy it again"
        )
    return ", ".join(f"{count} {label}" for label, count in counts.most_common(8))


def _alike(one: Detections, two: Detections) -> bool:
    """Whether two frames show the same objects, to a pixel."""
    same = np.array_equal(one.classes, two.classes)
    return same and np.allclose(one.boxes, two.boxes, rtol=0, atol=1)


def import_facts(model: Model, head: str, checks: Sequence[GateCheck]) -> dict[str, Any]:
    """The result for JSON."""
    return {
        "model": model.name,
        "folder": str(model.folder),
        "head": head,
        "input": f"{model.input.width}x{model.input.height}",
        "classes": model.classes,
        "license": model.license,
        "precision": model.precision,
        "checks": [check.__dict__ for check in checks],
    }
