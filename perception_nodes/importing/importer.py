"""From a file of another exporter to a model folder."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.decode import AbsurdOutput, DecodeSettings
from perception_nodes.core.frame import Detections
from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.importing import coco
from perception_nodes.importing.head import Head, Normalisation, Numbered
from perception_nodes.importing.heads import is_of_ultralytics, recognise
from perception_nodes.importing.image import INPUT_NAME
from perception_nodes.importing.onnx_model import rewrite_onnx
from perception_nodes.importing.openvino_model import IrSource, read_ir, rewrite_ir
from perception_nodes.importing.rewritten import Rewritten
from perception_nodes.importing.source import OnnxSource, Source, read_onnx
from perception_nodes.networks.model import CellsSpec, Model, ModelError, fault_of, load_model
from perception_nodes.networks.terms import says_more

RUNTIMES = ("onnxruntime", "openvino")
MAX_DIFFERENCE = {False: 0.02, True: 0.3}
"""Between two runtimes, of a float network and of an 8-bit one, as a share of the largest score and
of an object's size."""
MIN_SCALE = {False: 1e-3, True: 0.1}
"""The same for the largest score: a share of less than this says nothing."""
EVERYTHING = DecodeSettings(score_threshold=1e-9, iou_threshold=1.0)
BEST = 10
"""Objects whose boxes are compared, of the hundred best of a picture."""
TIED = 1e-3
"""Scores that differ by a smaller share are the same."""
MIN_SIZE = 8.0
"""Pixels: smaller boxes are those of noise."""
NEAR_PX = 2.0
"""Boxes that are all nearer to the corner are shares of the picture; 8 bits round by less."""
FINE, COARSE = 6, 28
"""Sizes of the spots in test pictures, pixels: networks see different things in them."""
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


def write_model(imported: Imported, folder: Path) -> Model:
    """Write a model folder and see whether it runs.

    Args:
        imported: the model.
        folder: the folder to make, with the name of the model. Where this fails, it may be left
            half made: the caller moves it to its place when it is whole.

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
    check_runs(model)
    return model


def check_runs(model: Model, frames: Sequence[NDArray[np.uint8]] = ()) -> None:
    """Run a model on test pictures in two runtimes, which must see the same.

    Runtimes rewrite a network before they run it, and not every rewriting is right.

    Args:
        model: the model.
        frames: more pictures, in the form of its input.

    Raises:
        ModelError: one refuses the model, they differ, or what they see cannot be.
    """
    size = model.input.width, model.input.height
    pictures = [_noise(*size, FINE), _noise(*size, COARSE), *frames]
    # An OpenVINO model has no other runtime to be compared with.
    runtimes = RUNTIMES if model.path.suffix == ".onnx" else RUNTIMES[-1:]
    first, *others = (_seen(model, name, pictures) for name in runtimes)
    _check_alive(model, first)
    _check_boxes(model, [objects.boxes[:BEST] for _, objects in first])
    eight = model.precision == "int8"
    for other in others:
        pairs = list(zip(first, other, strict=True))
        scores = max(_scores_apart(one[0], two[0], MIN_SCALE[eight]) for one, two in pairs)
        boxes = max(_boxes_apart(one[1], two[1]) for one, two in pairs)
        for what, far in (("class scores", scores), ("boxes", boxes)):
            if not far <= MAX_DIFFERENCE[eight]:
                raise ModelError(
                    f"{model.name}: {' and '.join(RUNTIMES)} compute different {what}, by "
                    f"{far:.0%} of the largest: one of them changes this network when it optimises "
                    "it; export it again with another opset, or simplified"
                )


def _check_alive(model: Model, seen: Sequence[tuple[NDArray[np.float32], Detections]]) -> None:
    """Refuse a network that answers the same to different pictures.

    Raises:
        ModelError: it does.
    """
    (scores, objects), (other_scores, others) = seen[:2]
    inside = isinstance(model.outputs, CellsSpec) and model.outputs.suppressed
    if inside and not scores.any():
        return  # NMS inside leaves nothing of pictures of noise
    if np.array_equal(scores, other_scores) and np.array_equal(objects.boxes, others.boxes):
        raise ModelError(
            f"{model.name} answers the same to different pictures: its weights are zero or "
            "damaged; export or copy it again"
        )


def _check_boxes(model: Model, best: Sequence[NDArray[np.float32]]) -> None:
    """Refuse boxes that are shares of the picture, which tests of two runtimes do not tell.

    Raises:
        ModelError: all of the best of test pictures are near its corner.
    """
    boxes = np.concatenate(best)
    if len(boxes) and np.abs(boxes).max() < NEAR_PX:
        raise _no_corners(
            model, f"all are within {NEAR_PX:g} pixels of the corner, as shares of the picture are"
        )


def _check_order(model: Model, heads: HeadTensors) -> None:
    """Refuse boxes that are no corners in their order, which the decoder would turn.

    Raises:
        ModelError: one of the best ends before it begins.
    """
    if isinstance(model.outputs, CellsSpec):  # a head of levels cannot cross its sides
        scores = heads.classes[0][0].max(axis=0)
        best = np.argsort(-scores, kind="stable")[:BEST]
        boxes = heads.boxes[0][0][:, best[scores[best] > EVERYTHING.score_threshold]]
        if (boxes[2:] + NEAR_PX < boxes[:2]).any():
            raise _no_corners(model, "some end before they begin")


def _no_corners(model: Model, reason: str) -> ModelError:
    return ModelError(
        f"{model.name} cannot be used: of its boxes in test pictures {reason}; give another "
        "--head, or export it with boxes in pixels"
    )


def _seen(
    model: Model, runtime: str, pictures: Sequence[NDArray[np.uint8]]
) -> list[tuple[NDArray[np.float32], Detections]]:
    """What a runtime sees in each picture: best scores by class and level, and the best objects."""
    backend = open_backend(runtime, BackendSettings())
    decoder = model.decoder(EVERYTHING)
    seen = []
    try:
        backend.load(model)
        for picture in pictures:
            heads = backend.infer(picture)
            _check_order(model, heads)
            best = [one.reshape(one.shape[1], -1).max(1) for one in heads.classes]
            seen.append((np.concatenate(best), decoder.decode(heads.boxes, heads.classes)))
    except BackendError as error:
        raise ModelError(f"{model.name} cannot be used: {error}") from error
    except AbsurdOutput as error:
        raise ModelError(
            f"{model.name} cannot be used: {error}, in a test picture; give another --head, or the "
            "--mean and --std that it was trained with"
        ) from error
    finally:
        backend.close()
    return seen


def _scores_apart(one: NDArray[np.float32], two: NDArray[np.float32], least: float) -> float:
    """Largest difference, as a share of the largest score."""
    return float(np.abs(one - two).max()) / max(float(np.abs(one).max()), least)


def _boxes_apart(some: Detections, others: Detections) -> float:
    """How far the best objects are from the nearest of their class, as a share of their sizes.

    Not from that of the same cell: objects of equal score may change places, and those of which a
    hundred are as good, as with untrained weights, may not be among the others.
    """
    sure = np.full(min(BEST, len(some)), True)
    if others.more:
        sure = some.scores[:BEST] > (1 + TIED) * others.scores[-1]
    best, labels = some.boxes[:BEST][sure], some.classes[:BEST][sure]
    apart = np.abs(best[:, None] - others.boxes[None]).max(axis=2)
    apart[labels[:, None] != others.classes[None]] = np.inf
    sizes = np.maximum((best[:, 2:] - best[:, :2]).max(axis=1), MIN_SIZE)
    return float((apart.min(axis=1, initial=np.inf) / sizes).max(initial=0))


def _noise(width: int, height: int, grain: int) -> NDArray[np.uint8]:
    """A picture, BGR, of random spots that are `grain` pixels large."""
    shape = -(-height // grain), -(-width // grain), 3
    spots = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def _check_numbers(source: Source, head: Numbered, named: int, wanted: Normalisation) -> None:
    """Refuse a network whose objects are of classes without a name: they would not be reported.

    Raises:
        ModelError: there are such classes in test pictures.
    """
    largest = 0
    for grain in (1, FINE, COARSE):
        picture = _noise(source.width, source.height, grain)
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
