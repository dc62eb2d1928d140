"""What a training does: one YAML file."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, PositiveFloat, ValidationError, model_validator

from model_compression.config import License, Section, Side, read_values
from model_compression.distillation.views import Frame
from model_compression.errors import CompressionError
from model_compression.labels import CLASSES, read_all
from perception_nodes.core.errors import first_problem


class Images(Section):
    """One set of images to train on."""

    name: str
    images: str = Field(description="glob below the data folder")
    times: int = Field(default=1, ge=1, description="how often each is drawn against others")
    pasted: bool = Field(default=False, description="whether objects are pasted into them")
    license: License


class Material(Section):
    """What a network is made from beside images."""

    name: str
    license: License


class Stage(Section):
    """A stretch of the training."""

    until: int = Field(ge=1, description="step that it ends with, counted from the first stage on")
    size: tuple[Side, Side] = Field(description="width and height of the input, pixels")
    kept: float = Field(
        default=0.1, ge=0, le=1, description="learning rate of the original's weights, as a share"
    )
    scales: tuple[PositiveFloat, PositiveFloat] = Field(
        default=(0.75, 2.0),
        description="least and greatest scale of a frame; 1 lies between fitting in and filling",
    )


class Readers(Section):
    """The training of the last layers alone, with which all begins."""

    views: int = Field(default=6000, ge=8, description="what the rest makes of them is kept")
    steps: int = Field(default=3000, ge=0)
    batch: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=4e-3, gt=0)


class Recipe(Section):
    """The whole file."""

    license: License = Field(description="of the network; goes into model.yaml")
    data: Path = Field(description="folder of images and weights")
    teacher: str = Field(description="its weights below data: OpenVINO's .xml, or .onnx")
    teachers: tuple[Material, ...] = Field(
        description="whose weights teach by maps or labels, and what they were trained on"
    )
    network: Literal["intel", "hgnet", "hgnet-short"] = Field(
        default="intel",
        description="Intel's detectors, or DEIMv2-Femto's backbone, also with a short stem",
    )
    labels: Path | None = Field(default=None, description="folder of label files")
    sources: tuple[Images, ...] = Field(min_length=1)
    batch: int = Field(default=16, ge=1)
    pool: int = Field(default=384, ge=1, description="views that batches are drawn from")
    readers: Readers = Readers()
    pasted: float = Field(default=0.35, ge=0, le=1, description="share of frames that get pastes")
    stages: tuple[Stage, ...] = Field(min_length=1)
    warm_up_steps: int = Field(default=300, ge=0, description="while the learning rate rises")
    decay: float = Field(
        default=0.2, ge=0, le=1, description="last share, in which the learning rate falls to 0"
    )
    learning_rate: float = Field(default=1e-3, gt=0)
    features: float = Field(default=1.0, ge=0, description="weight of the teacher's maps")
    seed: int = 0

    @model_validator(mode="after")
    def _suits(self) -> "Recipe":
        """Refuse values that do not suit each other."""
        ends = [stage.until for stage in self.stages]
        if ends != sorted(set(ends)):
            raise ValueError(f"stages end with {ends}: `until` counts from the first stage on")
        if self.pool < self.batch:
            raise ValueError(f"pool is {self.pool}: it is less than batch, {self.batch}")
        return self

    def frames(self) -> list[Frame]:
        """List the frames of all sources with their labels.

        Where there is a folder of labels, frames without are left out: the labeller refused them.

        Raises:
            CompressionError: a source has no images or no labels, or a label file is none.
        """
        read = read_all(self.labels) if self.labels else ()
        labels = {self.data / one.image: one for one in read}
        frames = []
        for source in self.sources:
            paths = sorted(self.data.glob(source.images))
            if not paths:
                raise CompressionError(
                    f"set {source.name}: no file matches {source.images} in {self.data}"
                )
            found = [Frame(path, labels.get(path)) for path in paths]
            usable = [frame for frame in found if frame.labels or not self.labels]
            if not usable:
                raise CompressionError(
                    f"set {source.name}: {self.labels} has no labels of its images; make them: "
                    "python -m model_compression.label"
                )
            frames += usable * source.times
        return frames

    @property
    def pasted_sets(self) -> set[str]:
        """Names of the sets into whose frames objects are pasted."""
        return {source.name for source in self.sources if source.pasted}

    @property
    def steps(self) -> int:
        """Batches of all stages."""
        return self.stages[-1].until

    @property
    def classes(self) -> tuple[str, ...]:
        """The network's classes, those of label files."""
        return CLASSES


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe; `${NAME}` stands for environment variables, `base` for a recipe.

    Raises:
        CompressionError: it cannot be read, or a value is not allowed.
    """
    try:
        values = read_values(path)
        for key in ("data", "labels"):
            if "$" in str(values.get(key)):
                raise CompressionError(
                    f"{path}: {key} is {values[key]}, and that is not set: set it to a folder"
                )
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise CompressionError(f"{path}: {first_problem(error.errors())}") from error
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise CompressionError(f"{path} cannot be read: {error}") from error
