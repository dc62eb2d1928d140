"""A model folder: `model.yaml` and the files that it names, checked before they are loaded."""

import hashlib
import importlib.resources
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from perception_nodes.core.decode import CellsDecoder, Decoder, DecodeSettings, LevelsDecoder
from perception_nodes.core.errors import PerceptionError, first_problem
from perception_nodes.core.geometry import PADDING_VALUE, Resize
from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.networks.external_data import file_outside
from perception_nodes.networks.terms import UNSTATED, Terms, terms_of
from perception_nodes.system.environment import prefixes
from perception_nodes.system.files import read_file

if TYPE_CHECKING:
    from perception_nodes.preprocess.cpu import Preprocessor

VERSION = 1
"""Version of the keys of `model.yaml` that are understood here."""
MAX_DESCRIPTION_BYTES = 4 << 20
MAX_NETWORK_BYTES = 4 << 30
SUCCESSORS = {"plain-s": "open-s"} | {f"road-{one}": f"open-{one}" for one in ("xs", "n", "s", "m")}
"""Of models that were shipped once."""


class ModelError(PerceptionError):
    """A model cannot be used; the text says why and what to do."""


class ModelRefused(PerceptionError):
    """A model can be used and is not good enough; the text says why and what to do."""

    word, status = "refused", 1


class _Part(BaseModel):
    """A mapping in `model.yaml` whose keys are all read, so that an unknown key is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class InputSpec(_Part):
    """The network's input: one image, uint8.

    Attributes:
        resize: where a frame lies in the input.
        padding: grey of the borders where it does not fill it.
    """

    name: str
    width: int = Field(gt=0, le=8192)
    height: int = Field(gt=0, le=8192)
    layout: Literal["NHWC"]
    color: Literal["BGR"]
    dtype: Literal["uint8"]
    resize: Resize = "letterbox"
    padding: int = Field(default=PADDING_VALUE, ge=0, le=255)

    def preprocessor(self, undistort: bool = False, sample_bits: int = 0) -> "Preprocessor":
        """A preprocessor that makes this input of a camera's frames; see `Preprocessor`."""
        # OpenCV is 20 MB, which supervisor and detector do without.
        from perception_nodes.preprocess.cpu import Preprocessor

        place = self.width, self.height, undistort, self.resize
        return Preprocessor(*place, self.padding, sample_bits)


Shape = tuple[int, ...]


class LevelsSpec(_Part):
    """A raw head, see `LevelsDecoder`: strides and names of its tensors, level by level.

    Attributes:
        nothing: what a class tensor holds where there is no object.
        reg_max: bins of a distance; with a single one all boxes would be empty.
    """

    nothing: ClassVar[float] = -20.0
    head: Literal["levels"] = "levels"
    strides: list[Annotated[int, Field(gt=0)]] = Field(min_length=1)
    reg_max: int = Field(gt=1, le=64)
    box: list[str]
    classes: list[str] = Field(alias="class")

    @model_validator(mode="after")
    def _one_tensor_a_level(self) -> "LevelsSpec":
        if not len(self.strides) == len(self.box) == len(self.classes):
            raise ValueError("strides, box and class must each have one entry per level")
        return self

    def shapes(self, image: InputSpec, classes: int) -> tuple[list[Shape], list[Shape]]:
        """Shapes of the box tensors and of the class tensors.

        Raises:
            ValueError: a stride does not divide the input.
        """
        for stride in self.strides:
            if image.width % stride or image.height % stride:
                size = f"{image.width}x{image.height}"
                raise ValueError(f"input {size} is not a multiple of stride {stride}")
        cells = [(image.height // stride, image.width // stride) for stride in self.strides]
        return [(1, 4 * self.reg_max, *one) for one in cells], [(1, classes, *one) for one in cells]

    def decoder(self, image: InputSpec, settings: DecodeSettings) -> Decoder:
        """What decodes the tensors."""
        return LevelsDecoder(image.width, image.height, self.strides, self.reg_max, settings)


class CellsSpec(_Part):
    """A head that computes boxes and scores itself, see `CellsDecoder`.

    Attributes:
        nothing: what the class tensor holds where there is no object.
        cells: number of boxes.
        suppressed: whether the network reports an object only once.
        box, classes: name of the one tensor of each kind, as a list.
    """

    nothing: ClassVar[float] = 0.0
    head: Literal["cells"]
    cells: int = Field(gt=0)
    suppressed: bool
    box: list[str] = Field(min_length=1, max_length=1)
    classes: list[str] = Field(alias="class", min_length=1, max_length=1)

    def shapes(self, image: InputSpec, classes: int) -> tuple[list[Shape], list[Shape]]:
        """Shapes of the box tensor and of the class tensor."""
        return [(1, 4, self.cells)], [(1, classes, self.cells)]

    def decoder(self, image: InputSpec, settings: DecodeSettings) -> Decoder:
        """What decodes the tensors."""
        return CellsDecoder(self.suppressed, settings)


_HEAD_KINDS = ("levels", "cells")
OutputSpec = Annotated[LevelsSpec | CellsSpec, Field(discriminator="head")]


class HashedFile(_Part):
    """A file of a model beside the main one."""

    file: str = Field(pattern=r"^[^/\\]+$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def fault_of(names: Sequence[str]) -> str:
    """Why class names are unusable, such as repeated ones; empty if they are usable."""
    if not all(name.strip() for name in names):
        return "a class without a name"
    twice = next((name for name in names if names.count(name) > 1), None)
    return "" if twice is None else f"the class {twice!r} twice"


class Model(BaseModel):
    """What `model.yaml` says of a model, as far as the run time needs it.

    Attributes:
        version: version of the keys, see docs/reference/model-yaml.md.
        name: name of the model.
        folder: folder of the model.
        file: name of the network's file in that folder.
        sha256: hash of the file, hexadecimal.
        weights: the file with the weights, if `file` is OpenVINO's `.xml`.
        s8: the file for TensorRT, if there is one: signed codes, all zero points zero.
        input: the network's input.
        outputs: the network's head.
        classes: class names by index.
        precision: `int8`, `fp32`, ...
        activation: activation function of the network, if known.
        fallback: name of a faster model with the same input and classes, if there is one.
        parent: name of the dense FP32 model that this one was compressed from, if any.
        gmac: 10^9 multiply-accumulate operations per frame.
        parameters: number of parameters.
        license: licence of the weights.
        accuracy: measurements by dataset, as they stand in the file.
    """

    model_config = ConfigDict(frozen=True, strict=True)
    version: int = Field(default=VERSION, ge=1, le=VERSION)
    name: str = Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,30}$")
    folder: Path
    file: str = Field(pattern=r"^[^/\\]+$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    s8: HashedFile | None = None
    weights: HashedFile | None = None
    input: InputSpec
    outputs: OutputSpec
    classes: list[str] = Field(min_length=1)
    precision: str
    activation: str | None = None
    fallback: str | None = None
    parent: str | None = None
    gmac: float | None = Field(default=None, gt=0)
    parameters: int | None = Field(default=None, gt=0)
    license: str = UNSTATED[-1]
    accuracy: dict[str, Any] = {}

    @field_validator("outputs", mode="before")
    @classmethod
    def _first_models_did_not_name_it(cls, outputs: Any) -> Any:
        return {"head": "levels", **outputs} if isinstance(outputs, dict) else outputs

    @field_validator("classes")
    @classmethod
    def _names_tell_apart(cls, names: list[str]) -> list[str]:
        if fault := fault_of(names):
            raise ValueError(f"there is {fault}")
        return names

    @model_validator(mode="after")
    def _whole_cells(self) -> "Model":
        self.outputs.shapes(self.input, len(self.classes))
        return self

    @model_validator(mode="after")
    def _weights_are_those_that_are_read(self) -> "Model":
        if self.file.lower().endswith(".xml"):
            if self.weights is None:
                outside = f"{self.file} has its weights in another file"
                raise ValueError(f"{outside}; name it under weights")
            beside = Path(self.file).with_suffix(".bin").name
            if self.weights.file != beside:
                raise ValueError(f"weights.file must be {beside}: OpenVINO reads no other")
        return self

    def decoder(self, settings: DecodeSettings) -> Decoder:
        """What turns the network's output into objects."""
        return self.outputs.decoder(self.input, settings)

    @property
    def path(self) -> Path:
        """Path of the network's file."""
        return self.folder / self.file

    @property
    def digest(self) -> str:
        """Hash of all that its detections depend on, hexadecimal; results are kept under it."""
        own = {"sha256", "weights", "s8", "input", "outputs", "classes", "precision"}
        said = self.model_dump_json(include=own)
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def terms(self) -> Terms:
        """What its licence asks for."""
        return terms_of(self.license)

    def signed_file(self) -> tuple[Path, str]:
        """Path and hash of the file for TensorRT, after a check of the hash.

        Raises:
            ModelError: there is none, or its hash differs.
        """
        if self.s8 is None:
            remedy = "make an 8-bit model (perception model compress, or calibrate)"
            if self.precision == "int8":
                remedy = "it was quantized by NNCF, for CPUs; take another (perception model list)"
            lacking = f"{self.folder / 'model.yaml'} names no s8 file"
            raise ModelError(f"{lacking}, and TensorRT takes no other; {remedy}")
        path = self.folder / self.s8.file
        check_hash(path, self.s8.sha256)
        return path, self.s8.sha256

    @property
    def map50_95(self) -> dict[str, float]:
        """Mean average precision by dataset, measured when the model was made."""
        known = {name: one for name, one in self.accuracy.items() if isinstance(one, dict)}
        measured = {name: facts.get("map50_95") for name, facts in known.items()}
        return {name: float(one) for name, one in measured.items() if isinstance(one, int | float)}


def model_folders() -> list[Path]:
    """Folders that are searched for models: the user's, the checkout's, and the installed ones."""
    shipped = Path(str(importlib.resources.files("perception_nodes"))).parent / "models"
    installed = [prefix / "share/perception_nodes/models" for prefix in prefixes()]
    extra = os.environ.get("PERCEPTION_MODELS", "")
    candidates = [*(Path(p) for p in extra.split(os.pathsep) if p), shipped, *installed]
    return [folder for folder in candidates if folder.is_dir()]


def available_models() -> list[str]:
    """Names of the models that `load_model` finds."""
    return sorted({path.parent.name for f in model_folders() for path in f.glob("*/model.yaml")})


def load_model(name_or_folder: str, key_file: str = "") -> Model:
    """Read a model and check its file against the hash.

    Args:
        name_or_folder: a model's name, which is searched for in `model_folders()` and then in the
            working folder; or a path to its folder, such as `./open-n`.
        key_file: public key whose owner must have signed it; empty: it needs no signature.

    Raises:
        ModelError: the model is not found or not readable, or the hash of its file differs.
        SignatureError: it is not signed with the key.
    """
    folder = _find(name_or_folder)
    description = folder / "model.yaml"
    try:
        content = read_file(description, MAX_DESCRIPTION_BYTES)
        if key_file:  # only this needs the library
            from perception_nodes.networks.signature import verify

            verify(description, content, Path(key_file))
        values: Any = parse_yaml(content.decode())
        if not isinstance(values, dict):
            raise ModelError(f"{description} is not a mapping of keys to values")
        model = Model.model_validate({**values, "folder": folder})
    except ValidationError as error:
        first = error.errors()[0]
        # The kind of head is a step of the validation, but not a key of the file.
        parts = [part for n, part in enumerate(first["loc"]) if n != 1 or part not in _HEAD_KINDS]
        problem = first_problem([{**first, "loc": parts or ["model"]}])
        raise ModelError(f"{description}: {problem}") from error
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ModelError(f"{description} cannot be read: {error}") from error
    check_hash(model.path, model.sha256)
    if model.weights is not None:
        check_hash(model.folder / model.weights.file, model.weights.sha256)
    return model


def check_hash(path: Path, sha256: str) -> None:
    """Check that a model's file is the one that its `model.yaml` describes, and whole in itself.

    Raises:
        ModelError: its hash differs, it has weights in another file, or it cannot be read.
    """
    try:
        content = read_file(path, MAX_NETWORK_BYTES)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        differ = f"{path} has sha256 {found[:12]}…, model.yaml says {sha256[:12]}…"
        remedy = "restore it or compile the model again"
        raise ModelError(f"{differ}: the file is not the one that was measured; {remedy}")
    if other := file_outside(content):
        remedy = "put them into one: onnx.save(onnx.load(FILE), NEW)"
        raise ModelError(f"{path} keeps its weights in another file ({other}); {remedy}")


def _find(name_or_folder: str) -> Path:
    # A folder that happens to be in the working folder is not taken for a shipped model.
    known, here = model_folders(), Path()
    for folder in (here, *known) if os.sep in name_or_folder else (*known, here):
        # Unlike Path.is_file, this is just False for a name that is too long for a file system.
        if name_or_folder and os.path.isfile(folder / name_or_folder / "model.yaml"):
            return (folder / name_or_folder).resolve()
    names, places = ", ".join(available_models()) or "none", ", ".join(map(str, known))
    successor = SUCCESSORS.get(name_or_folder)
    remedy = f"take {successor}, its successor" if successor else f"known are {names} (in {places})"
    raise ModelError(f"model {name_or_folder!r} is not there; {remedy}")
