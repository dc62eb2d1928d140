"""Imports a detector: reads its file, recognises its head, and writes a model folder."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from perception_nodes.networks import heads
from perception_nodes.networks.class_names import names_in, names_of
from perception_nodes.networks.exported import (
    CHECKPOINTS,
    INPUT_NAME,
    ExportedNetwork,
    Normalisation,
    RewrittenNetwork,
)
from perception_nodes.networks.head_layouts import Arrays
from perception_nodes.networks.model import Model, ModelError, fault_of, load_model
from perception_nodes.networks.onnx_file import read_onnx
from perception_nodes.networks.onnx_rewrite import rewrite_onnx
from perception_nodes.networks.openvino_file import read_openvino, rewrite_openvino
from perception_nodes.networks.terms import says_more
from perception_nodes.networks.two_runtimes import COARSE, FINE, OpenModel, check_runs, noise

Format = tuple[Callable[..., ExportedNetwork], Callable[..., RewrittenNetwork]]
ONNX: Format = read_onnx, rewrite_onnx
OPENVINO: Format = read_openvino, rewrite_openvino
FORMATS: dict[str, Format] = {".onnx": ONNX, ".xml": OPENVINO, ".tflite": OPENVINO}
"""By the file's ending: a function that reads it, and one that gives its network our input and
outputs."""
WHOLE = (*FORMATS, *CHECKPOINTS)
"""Endings of files that are a network, or name its other files."""
SUPPRESSED = (
    "suppression is in the network: what scores less than at its export (conf of Ultralytics, 0.25 "
    "by default) is never reported, whatever score_threshold says"
)
UNKNOWN_LICENSE = "unknown: the file does not say; ask whoever trained it"


@dataclass(frozen=True)
class ImportOptions:
    """What the user states about a file; None where the file's own statement counts.

    Attributes:
        head: name of the head.
        size: width and height of the input.
        classes: names of the classes.
        keep: names of the classes to keep, in their new order; `new=one+other` joins some.
        color, mean, std, resize, padding: see `Normalisation`.
        license: licence of the weights.
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
        exported: the file.
        head: its head.
        normalisation: what the network expects of its pixels.
        classes: names of the classes.
        merged: those that were made of several, with these.
        made: the network with our input and outputs.
        notes: what was assumed, for people.
        license: licence of the weights.
        license_by: who says so: "the file", "the importer", "signs in the network" or "nobody".
        sha256: hash of the file.
    """

    exported: ExportedNetwork
    head: heads.FoundHead
    normalisation: Normalisation
    classes: list[str]
    merged: dict[str, str]
    made: RewrittenNetwork
    notes: list[str]
    license: str
    license_by: str
    sha256: str

    def description(self, name: str) -> dict[str, Any]:
        """`model.yaml` of the network under a name."""
        file, *more = (
            {"file": file_of(name, ending), "sha256": hashlib.sha256(content).hexdigest()}
            for ending, content in self.made.files.items()
        )
        return {
            "version": 1,
            "name": name,
            **file,
            **({"weights": more[0]} if more else {}),
            "input": {
                "name": INPUT_NAME,
                "width": self.exported.width,
                "height": self.exported.height,
                "layout": "NHWC",
                "color": "BGR",
                "dtype": "uint8",
                "resize": self.normalisation.resize,
                "padding": self.normalisation.padding,
            },
            "outputs": self.made.outputs,
            "classes": self.classes,
            "precision": "int8" if self.exported.quantized else "fp32",
            "parameters": self.made.parameters,
            "license": self.license,
            "imported": {
                "file": self.exported.path.name,
                "sha256": self.sha256,
                "head": self.head.name,
                **({"merged": self.merged} if self.merged else {}),
                "license_by": self.license_by,
                "color": self.normalisation.color,
                "mean": list(self.normalisation.mean),
                "std": list(self.normalisation.std),
            },
        }


def file_in(path: Path) -> Path:
    """The network's file in a folder, as exporters write it; a file is itself.

    Raises:
        ModelError: there is none in the folder, or several.
    """
    if not path.is_dir():
        return path
    found = sorted(one for one in path.iterdir() if one.suffix.lower() in WHOLE)
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise ModelError(f"{path} should hold one network ({', '.join(WHOLE)}), it holds {names}")
    return found[0]


def understand(path: Path, options: ImportOptions, onnx_file: Path | None = None) -> Imported:
    """Read a file, recognise its head, and give it our input and outputs.

    Args:
        path: the user's file.
        options: what the user says of it.
        onnx_file: the ONNX file that a tool has made of it, if only that can be read here.

    Raises:
        ModelError: it cannot be used, or an option is needed.
    """
    file = onnx_file or path
    read, rewrite = FORMATS.get(file.suffix.lower(), ONNX)
    exported = replace(read(file, options.size), path=path)
    known = options.classes or names_in(exported.facts)
    told = exported.facts.get("perception_head", "")
    head = heads.recognise(exported, options.head or told, len(known) if known else None)
    named, notes = names_of(path, exported.facts, head.classes, options.classes)
    kept = _kept(path, options.keep or named, named)
    merged = {name: " + ".join(group) for name, group in kept.items() if len(group) > 1}
    given = {one.name: getattr(options, one.name) for one in fields(Normalisation)}
    given = {name: value for name, value in given.items() if value is not None}
    if told and (twice := [name for name in ("color", "mean", "std") if name in given]):
        raise ModelError(f"{path} says itself how pixels are scaled; leave out --{twice[0]}")
    normalisation = replace(head.normalisation, **given)
    if "NonMaxSuppression" in exported.operators:
        notes.append(SUPPRESSED)
    if not (told or heads.is_of_ultralytics(exported)):
        notes.append(_scaling(normalisation, given))
    if head.numbered:
        _check_numbers(exported, head, len(named), normalisation)
    groups = [list(map(named.index, group)) for group in kept.values()]
    made = rewrite(exported, head, len(named), groups, normalisation)
    if merged:  # an object may have been found once as each of them
        made.outputs["suppressed"] = False
    license, by, said = _license(exported, head, options.license)
    notes += said
    rest = notes, license, by, hashlib.sha256(path.read_bytes()).hexdigest()
    return Imported(exported, head, normalisation, list(kept), merged, made, *rest)


def _kept(path: Path, wanted: Sequence[str], named: Sequence[str]) -> dict[str, list[str]]:
    """The classes to keep, each with those of the file that it stands for.

    Raises:
        ModelError: a class is not the file's, or is there twice.
    """
    split = [(text, "", "") if text in named else text.partition("=") for text in wanted]
    names = [name.strip() for name, _, _ in split]
    groups = [
        [one.strip() for one in parts.split("+")] if parts else [name] for name, _, parts in split
    ]
    flat = [one for group in groups for one in group]
    if fault := ", ".join(sorted({*flat} - {*named})) or fault_of(flat) or fault_of(names):
        raise ModelError(
            f"--keep names {fault}; the classes of {path} are {', '.join(named)}; several become "
            "one as in vehicle=car+truck"
        )
    return dict(zip(names, groups, strict=True))


def _license(
    exported: ExportedNetwork, head: heads.FoundHead, given: str
) -> tuple[str, str, list[str]]:
    """Licence of the weights, who says so, and notes for people.

    A network of Ultralytics or YOLOv7 whose metadata a tool has dropped is as bound as before.
    """
    said = exported.facts.get("license") or ""
    if said and says_more(said, given or said):
        note = f"--license is {given}, the file says {said}; model.yaml has both"
        return f"{given}; the file says {said}", "the file", [note]
    probable, sign = ("", "") if said else heads.probable_license(head)
    if probable and all(says_more(one, given) for one in probable.split(" or ")):
        license = f"probably {probable}" + (f"; the importer says {given}" if given else "")
        note = (
            f"{sign}, and the file names no licence any more: {license}. Whoever has other terms "
            "from its authors writes them into model.yaml"
        )
        return license, "signs in the network", [note]
    by = "the importer" if given else "the file" if said else "nobody"
    return given or said or UNKNOWN_LICENSE, by, []


def file_of(name: str, ending: str) -> str:
    """Name of a float model's file."""
    return f"{name}.float.{ending}"


def write_model(imported: Imported, folder: Path, open_model: OpenModel) -> Model:
    """Write a model folder and see whether it runs.

    Args:
        imported: the model.
        folder: the folder to make, with the name of the model. After a failure it may be half made:
            the caller moves it to its place when it is whole.
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


def _check_numbers(
    exported: ExportedNetwork, head: heads.FoundHead, named: int, wanted: Normalisation
) -> None:
    """Refuse a network whose objects are of classes without a name: they would not be reported.

    Raises:
        ModelError: there are such classes in test pictures.
    """
    largest = 0
    for grain in (1, FINE, COARSE):
        picture = noise(exported.width, exported.height, grain)
        ordered = picture[..., ::-1] if wanted.color == "RGB" else picture
        pixels = ((ordered - np.array(wanted.mean)) / wanted.std).astype(np.float32)
        parts = head.parts(Arrays(), exported.run(pixels.transpose(2, 0, 1)[None]))
        largest = max(largest, int(parts["number"].max(initial=0)))
    if largest > max(head.numbers(named)):
        raise ModelError(
            f"{exported.path} finds class {largest}, counted from {head.head.first}, in a test "
            f"picture, and only {named} classes are named; give --classes with at least "
            f"{largest + 1 - head.head.first} names"
        )


def _scaling(wanted: Normalisation, given: Collection[str]) -> str:
    """What the network is assumed to expect of its pixels, and which of that nobody has stated."""
    said: dict[bool, list[str]] = {True: [], False: []}
    for name, value in asdict(wanted).items():
        text = ",".join(f"{one:g}" for one in value) if isinstance(value, tuple | list) else value
        said[name in given].append(f"--{name} {text}")
    parts = (("given", said[True]), ("assumed, as usual for its head:", said[False]))
    known = "; ".join(f"{what} {' '.join(options)}" for what, options in parts if options)
    return f"of its pixels the file says nothing: {known}"
