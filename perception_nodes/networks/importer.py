"""From a file of another exporter to a model folder."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from perception_nodes.networks import coco
from perception_nodes.networks.head import Head, Normalisation, Numbered
from perception_nodes.networks.heads import is_of_ultralytics, recognise
from perception_nodes.networks.image import INPUT_NAME
from perception_nodes.networks.model import Model, ModelError, fault_of, load_model
from perception_nodes.networks.onnx_model import rewrite_onnx
from perception_nodes.networks.openvino_model import IrSource, read_ir, rewrite_ir
from perception_nodes.networks.rewritten import Rewritten
from perception_nodes.networks.source import OnnxSource, Source, read_onnx
from perception_nodes.networks.terms import says_more
from perception_nodes.networks.two_runtimes import COARSE, FINE, OpenModel, check_runs, noise

SUPPRESSED = (
    "suppression is in the network: what scores less than at its export (conf of Ultralytics, 0.25 "
    "by default) is never reported, whatever score_threshold says"
)
UNKNOWN_LICENSE = "unknown: the file does not say; ask whoever trained it"


@dataclass(frozen=True)
class Options:
    """What the user says of a file; None where the file is to say it itself.

    Attributes:
        head: name of the head.
        size: width and height of the input.
        classes: names of the classes.
        keep: names of those to keep, in the order that they are to have.
        color, mean, std, resize, padding: see `Normalisation`.
        license: of the weights.
    """

    head: str = ""
    size: tuple[int, int] | None = None
    classes: Sequence[str] | None = None
    keep: Sequence[str] | None = None
    color: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize: str | None = None
    padding: int | None = None
    license: str = ""


@dataclass(frozen=True)
class Imported:
    """A file that has been understood, and the network with our input and head.

    Attributes:
        source: the file.
        head: its head.
        normalisation: what the network expects of its pixels.
        classes: names of the classes.
        made: the network with our input and outputs.
        notes: what was assumed, for people.
        license: of the weights.
        sha256: of the file.
    """

    source: Source
    head: Head
    normalisation: Normalisation
    classes: list[str]
    made: Rewritten
    notes: list[str]
    license: str
    sha256: str

    def description(self, name: str) -> dict[str, Any]:
        """`model.yaml` of the network under a name."""
        file, *more = (
            {"file": file_of(name, ending), "sha256": hashlib.sha256(content).hexdigest()}
            for ending, content in self.made.files.items()
        )
        size = self.source.width, self.source.height
        return {
            "version": 1,
            "name": name,
            **file,
            **({"weights": more[0]} if more else {}),
            "input": {
                "name": INPUT_NAME,
                "width": size[0],
                "height": size[1],
                "layout": "NHWC",
                "color": "BGR",
                "dtype": "uint8",
                "resize": self.normalisation.resize,
                "padding": self.normalisation.padding,
            },
            "outputs": self.made.outputs,
            "classes": self.classes,
            "precision": "fp32",
            "parameters": self.made.parameters,
            "license": self.license,
            "imported": {
                "file": self.source.path.name,
                "sha256": self.sha256,
                "head": self.head.name,
                "color": self.normalisation.color,
                "mean": list(self.normalisation.mean),
                "std": list(self.normalisation.std),
            },
        }


def understand(path: Path, options: Options, exported: Path | None = None) -> Imported:
    """Read a file, recognise its head, and give it our input and outputs.

    Args:
        path: the user's file.
        options: what the user says of it.
        exported: the ONNX file that a tool has made of it, where only that can be read here.

    Raises:
        ModelError: it cannot be used, or an option is needed.
    """
    read = exported or path
    source: Source = _READERS.get(read.suffix.lower(), read_onnx)(read, options.size)
    source = replace(source, path=path)
    known = options.classes or source.names
    head = recognise(source, options.head, len(known) if known else None)
    named, notes = _classes(source, head, options.classes)
    classes = list(options.keep or named)
    unknown = [name for name in classes if name not in named]
    if unknown or len(set(classes)) < len(classes):
        raise ModelError(
            f"--keep names {', '.join(unknown) or 'a class twice'}; the classes of {path} are "
            f"{', '.join(named)}"
        )
    kept = [named.index(name) for name in classes]
    usual = head.normalisation(source)
    chosen = {
        one.name: value
        for one in fields(Normalisation)
        if (value := getattr(options, one.name)) is not None
    }
    normalisation = replace(usual, **chosen)
    if "NonMaxSuppression" in source.operators:
        notes.append(SUPPRESSED)
    if not is_of_ultralytics(source):
        notes.append(_scaling(normalisation, chosen))
    if isinstance(head, Numbered):
        _check_numbers(source, head, len(named), normalisation)
    if isinstance(source, OnnxSource):
        made = rewrite_onnx(source, head, len(named), kept, normalisation)
    else:
        assert isinstance(source, IrSource)
        made = rewrite_ir(source, head, len(named), kept, normalisation)
    said = source.facts.get("license") or ""
    license = options.license or said or UNKNOWN_LICENSE
    if says_more(said, license):
        license = f"{license}; the file says {said}"
        notes.append(f"--license is {options.license}, the file says {said}; model.yaml has both")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Imported(source, head, normalisation, classes, made, notes, license, sha256)


_READERS = {".onnx": read_onnx, ".xml": read_ir}


def file_of(name: str, ending: str) -> str:
    """Name of a float model's file."""
    return f"{name}.float.{ending}"


def write_model(imported: Imported, folder: Path, open_model: OpenModel) -> Model:
    """Write a model folder and see whether it runs.

    Args:
        imported: the model.
        folder: the folder to make, with the name of the model. Where this fails, it may be left
            half made: the caller moves it to its place when it is whole.
        open_model: opens the runtimes that it is tried in.

    Raises:
        ModelError: a runtime refuses the network, or two differ.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True)
    for ending, content in imported.made.files.items():
        (folder / file_of(folder.name, ending)).write_bytes(content)
    description = imported.description(folder.name)
    text = yaml.safe_dump(description, sort_keys=False, width=100, allow_unicode=True)
    (folder / "model.yaml").write_text(text, encoding="utf-8")
    model = load_model(str(folder))
    check_runs(model, open_model)
    return model


def _check_numbers(source: Source, head: Numbered, named: int, wanted: Normalisation) -> None:
    """Refuse a network whose objects are of classes without a name: they would not be reported.

    Raises:
        ModelError: there are such classes in test pictures.
    """
    largest = 0
    for grain in (1, FINE, COARSE):
        picture = noise(source.width, source.height, grain)
        ordered = picture[..., ::-1] if wanted.color == "RGB" else picture
        pixels = ((ordered - np.array(wanted.mean)) / wanted.std).astype(np.float32)
        numbers = head.numbers(source.run(pixels.transpose(2, 0, 1)[None]))
        largest = max(largest, int(numbers.max(initial=0)))
    if largest >= named:
        raise ModelError(
            f"{source.path} finds class {largest}, counted from 0, in a test picture, and only "
            f"{named} classes are named; give --classes with at least {largest + 1} names"
        )


def _classes(
    source: Source, head: Head, given: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Names of the classes, and notes on where they are from."""
    by_outputs, by_metadata = head.classes(source), source.names
    count = by_outputs or len(by_metadata or ())
    names = list(given) if given is not None else by_metadata
    notes = []
    if names is None and "names" in source.facts:
        raise ModelError(
            f"{source.path} names its classes in a form that is not known "
            f"({source.facts['names'][:40]!r}); give --classes FILE, a name a line"
        )
    if names is None and count in (0, len(coco.NAMES)):
        names = list(coco.NAMES)
        notes.append("the file names no classes; taken for the 80 of COCO; --classes names others")
    if names is None:
        raise ModelError(
            f"{source.path} does not name its {count} classes; give --classes FILE, a name a line"
        )
    if count and len(names) != count:
        where = "--classes gives" if given is not None else "its metadata names"
        known = "outputs" if by_outputs else "metadata"
        raise ModelError(
            f"{source.path} has {count} classes by its {known}, {where} {len(names)} "
            f"({', '.join(names[:3])}…); give --classes with {count} names"
        )
    if fault := fault_of(names):
        raise ModelError(f"{source.path} has {fault}; give --classes")
    return names, notes


def _scaling(wanted: Normalisation, given: Collection[str]) -> str:
    """What the network is taken to expect of its pixels, and what of that nobody has said."""
    said: dict[bool, list[str]] = {True: [], False: []}
    for name, value in asdict(wanted).items():
        text = ",".join(f"{one:g}" for one in value) if isinstance(value, tuple) else value
        said[name in given].append(f"--{name} {text}")
    parts = (("given", said[True]), ("assumed, as usual for its head:", said[False]))
    known = "; ".join(f"{what} {' '.join(options)}" for what, options in parts if options)
    return f"of its pixels the file says nothing: {known}"
