"""What a compression run does: one YAML file, checked as a whole before hours of work."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from model_compression.contract import STRIDES
from model_compression.errors import CompressionError
from perception_nodes.core.errors import first_problem, listed
from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.evaluation.yolo import read_split


def _whole_cells(side: int) -> int:
    if side % max(STRIDES):
        raise ValueError(f"input side {side} is not a multiple of {max(STRIDES)}")
    return side


def _stated(license: str) -> str:
    if not license.strip():
        raise ValueError("it is empty; name the licence, or say that it is unknown")
    return license


Side = Annotated[int, Field(ge=64, le=4096), AfterValidator(_whole_cells)]
License = Annotated[str, AfterValidator(_stated)]


class Section(BaseModel):
    """A part of the file; a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Section):
    """One set of images, and what its labels mean."""

    name: Annotated[str, Field(pattern="^[a-z0-9_]+$")]
    images: str = Field(
        description="below the data folder: a glob, or Ultralytics' data.yaml, whose train "
        "images and names are taken"
    )
    classes: dict[int, str] | None = Field(
        default=None,
        description="the set's class ids to the network's names; none for a set without labels, "
        "or with a data.yaml, which names them",
    )
    ignored: set[int] = Field(default=set(), description="the set's class ids to leave out")
    labeller_long_side_px: int = Field(
        default=960, ge=32, le=4096, description="size of an image for the labeller"
    )
    times: int = Field(
        default=1, ge=1, le=100, description="how often an image is shown in an epoch"
    )
    license: License = Field(description="licence of the images and labels; goes into model.yaml")

    @property
    def has_data_yaml(self) -> bool:
        """Whether `images` is a data.yaml."""
        return self.images.endswith((".yaml", ".yml"))


class Training(Section):
    """One stretch of training."""

    epochs: float = Field(gt=0, le=1000)
    learning_rate: float = Field(default=3e-4, gt=0, lt=1)
    batch: int = Field(default=16, ge=1, le=512)
    distillation: float = Field(default=1.0, ge=0, description="weight of the teacher's outputs")
    features: float = Field(default=0.0, ge=0, description="weight of the teacher's features")
    warm_up_steps: int = Field(default=50, ge=0, description="while the learning rate rises")
    mosaic: float = Field(default=0.5, ge=0, le=1, description="share of images made of four")
    final_phase: float = Field(
        default=0.3, ge=0, le=1, description="last share: whole images, weights rounded"
    )


class Pruning(Section):
    """Structured pruning, in rounds with healing between."""

    gmac: float = Field(gt=0, description="10^9 multiply-accumulates to come down to")
    rounds: int = Field(default=3, ge=1, le=20)
    images: int = Field(
        default=48, ge=4, le=512, description="images that sensitivity is measured on"
    )
    healing: Training


class Quantization(Section):
    """From float to 8 bits."""

    images: int = Field(default=256, ge=8, description="calibration images")
    finetune_above: float = Field(
        default=0.005, ge=0, description="loss of mAP50-95 above which 8 bits are trained, too"
    )
    finetune_steps: int = Field(default=400, ge=0, description="0: never")


class Gate(Section):
    """What a model may cost against its dense FP32 parent before it is refused."""

    data: list[str] = Field(
        default=[],
        description="labelled sets: descriptions in `datasets/`, or below the data folder whatever "
        "`perception model evaluate` takes; none for no gate",
    )
    max_loss: float = Field(default=0.03, ge=0, description="of mAP50-95, mean over the sets")
    max_quantization_loss: float = Field(default=0.01, ge=0, description="of INT8 to own FP32")
    max_class_loss: float = Field(
        default=0.1, ge=0, description="of AP50 and of recall, class by class over the sets"
    )
    unproven: set[str] = Field(
        default=set(), description="classes that may go without labelled objects on the sets"
    )


class Config(Section):
    """The whole file."""

    name: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,30}$")]
    parent: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,30}$")]
    width: Side = Field(description="of the network's input, pixels")
    height: Side
    seed: int = Field(default=0, ge=0)
    data: Path = Field(description="folder that holds the sets and weights")
    teacher: str = Field(description="YOLOv8 or YOLO11 that the network starts from, below data")
    teacher_data: str = Field(
        default="not stated", description="what the teacher was trained on; goes into model.yaml"
    )
    license: License = Field(
        default="AGPL-3.0 (started from Ultralytics weights)",
        description="of the teacher's weights; goes into model.yaml",
    )
    labeller: str | None = Field(
        default=None, description="checkpoint that labels what sets leave out, below data"
    )
    classes: tuple[str, ...] = Field(
        default=(), description="the network's, in their order; by default those of the teacher"
    )
    min_confidence: float = Field(default=0.4, gt=0, lt=1, description="of a labeller's box")
    sources: list[Source] = Field(min_length=1)
    activation: Literal["hardswish", "relu"] = "hardswish"
    dense: Training | None = Field(
        default=None, description="fine-tunes the parent, which is the teacher as it is without"
    )
    swap: Training = Field(description="heals the other activation")
    prune: Pruning | None = None
    distil: list[Training] = Field(
        default=[], description="trains the pruned network, one stretch after another"
    )
    quantize: Quantization = Quantization()
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _own_names(self) -> "Config":
        written = [self.name + end for end in ("", "-fp32", "-swapped", "-swapped-int8")]
        if self.parent in written or self.name == f"{self.parent}-int8":
            raise ValueError(
                f"parent {self.parent!r} and name {self.name!r} would be written to one folder, "
                "and the gate compare a model with itself: give the parent another name"
            )
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two sets are named {twice!r}: give each its own name")
        return self

    @model_validator(mode="after")
    def _has_labels(self) -> "Config":
        for source in self.sources:
            if not (self.labeller or source.classes or source.has_data_yaml):
                raise ValueError(
                    f"set {source.name} has no labels: give its classes, a data.yaml, or a labeller"
                )
        return self

    @model_validator(mode="after")
    def _known_classes(self) -> "Config":
        known = listed(self.classes, 8)
        for source in self.sources if self.classes else ():
            for own, name in (source.classes or {}).items():
                if name not in self.classes:
                    raise ValueError(
                        f"class {own} of set {source.name} is {name!r}, which is none of {known}: "
                        "correct the name, say what it is by the set's `classes`, or leave it out "
                        "by `ignored`"
                    )
        for name in self.gate.unproven if self.classes else ():
            if name not in self.classes:
                raise ValueError(f"gate.unproven: class {name!r} is none of {known}")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the input."""
        return self.width, self.height


def read_values(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read the keys of a file and, where it names a `base`, those of that one which it lacks.

    Raises:
        CompressionError: a file holds no keys, or is its own base.
        OSError, yaml.YAMLError: it cannot be read.
    """
    values: Any = parse_yaml(os.path.expandvars(path.read_text(encoding="utf-8")))
    if not isinstance(values, dict):
        raise CompressionError(f"{path} holds no keys")
    base = values.pop("base", None)
    if not base:
        return values
    above = *above, path.resolve()
    if (path.parent / str(base)).resolve() in above:
        raise CompressionError(f"{path}: base {base} is this file again; name another, or none")
    return {**read_values(path.parent / str(base), above), **values}


def read_config(path: Path, classes_of: Callable[[Path], Sequence[str]]) -> Config:
    """Read and check a configuration.

    `${NAME}` stands for environment variables; `base: FILE` takes the keys that are not given
    from another file beside it.

    Args:
        path: the file.
        classes_of: names the classes of a checkpoint, where the configuration does not.

    Raises:
        CompressionError: it cannot be read, or a value is not allowed, or what it names is not
            there.
        DataError: a data.yaml cannot be used.
    """
    try:
        values = read_values(path)
        if "data" in values:
            if "$" in str(values["data"]):
                raise CompressionError(
                    f"{path}: data is {values['data']}, and that variable is not set: "
                    "set it to the folder that holds the images and weights"
                )
            values["data"] = (path.parent / str(values["data"])).absolute()
        config = _validated(path, values)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise CompressionError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    for key in ("teacher", "labeller"):
        name = getattr(config, key)
        if name and not (config.data / name).is_file():
            raise CompressionError(f"{path}: {key}: {config.data / name} is not there")
    known = {
        "classes": config.classes or tuple(classes_of(config.data / config.teacher)),
        "sources": [_named(source, config.data) for source in config.sources],
    }
    return _validated(path, {**values, **known})


def _validated(path: Path, values: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise CompressionError(f"{path}: {first_problem(error.errors())}") from error


def _named(source: Source, data: Path) -> Source:
    """A set whose classes are those of its data.yaml, unless the configuration says them."""
    if source.classes is not None or not source.has_data_yaml:
        return source
    _, names = read_split(data / source.images, "train")
    classes = {own: name for own, name in enumerate(names) if own not in source.ignored}
    return source.model_copy(update={"classes": classes})
