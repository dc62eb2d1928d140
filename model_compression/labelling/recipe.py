"""What a labelling does, as a YAML file says: detectors and images that products may use."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from model_compression.config import Section
from model_compression.errors import CompressionError
from model_compression.labelling.boxes import GROUPS, TWO_WHEELER, VEHICLE
from model_compression.labelling.looks import Voice
from model_compression.labels import CLASSES
from perception_nodes.core.errors import first_problem
from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.networks.terms import MEANING, Terms, terms_of

USUAL_TRUST = 0.5
SOLD = Terms.JUDGED
"""The strictest terms of what a label may be made of."""


def _for_products(license: str) -> str:
    terms = terms_of(license)
    if terms > SOLD:
        raise ValueError(f"what is under {license!r} {MEANING[terms]}; leave it out")
    return license


def _known(name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ValueError(f"{name!r} is none of {', '.join(names)}")
    return name


License = Annotated[str, AfterValidator(_for_products)]
Name = Annotated[str, Field(pattern="^[a-z0-9_]+$")]
View = Literal["whole", "mirror", "tiles", "fine"]
VIEWS: tuple[View, ...] = get_args(View)
Group = Annotated[str, AfterValidator(partial(_known, names=tuple(GROUPS)))]
Box = Annotated[str, AfterValidator(partial(_known, names=(*CLASSES, VEHICLE)))]


class Labeller(Section):
    """A detector, and how it looks at each frame."""

    name: Name
    kind: Literal["intel", "nanodet", "yolox", "deim"]
    weights: str = Field(description="file below the data folder")
    views: list[View] = Field(min_length=1)
    weight: float = Field(default=1, gt=0, description="of its boxes, where several are merged")
    least_score: float = Field(default=0.15, ge=0, lt=1, description="of boxes that are merged")
    trust: dict[Group, float] = Field(
        default={}, description="how much its word weighs where people labelled too little"
    )
    joins_riders: bool = Field(
        default=False, description="whether it boxes a rider and the two-wheeler as one at times"
    )
    license: License
    origin: str = Field(description="where its weights are from")
    trained_on: str = Field(description="the images that it has learned from")

    def trust_in(self, group: str) -> float:
        """How far it is trusted with objects of a group."""
        return self.trust.get(group, USUAL_TRUST)


class ImageSet(Section):
    """A set of images, and what people labelled on it."""

    name: Name
    images: str = Field(description="below the data folder: a glob, or one video file")
    people: dict[int, Box] = Field(
        default={},
        description="the set's class ids to classes, or to `vehicle`, whose kind the "
        "detectors tell; what people labelled is theirs",
    )
    partial: bool = Field(
        default=False,
        description="whether detectors may add objects of what people labelled; else what they "
        "find besides is ignored",
    )
    views: list[View] = Field(
        default=list(VIEWS),
        description="those that it is worth looking at: no tiles of what is near",
    )
    crowd: dict[int, list[Group]] = Field(
        default={}, description="the set's class ids to what is neither right nor wrong there"
    )
    ridden: set[int] = Field(
        default=set(),
        description="the set's class ids whose boxes cover a two-wheeler and its rider",
    )
    license: License
    origin: str = Field(description="repository or page, and what to credit")

    @property
    def groups(self) -> set[str]:
        """The groups that people labelled."""
        named = set(self.people.values())
        own = {group for group, kinds in GROUPS.items() if named & {group, *kinds}}
        return own | ({TWO_WHEELER} if self.ridden else set())


class Recipe(Section):
    """The whole file."""

    detectors: list[Labeller] = Field(min_length=1)
    held_out: list[str] = Field(description="globs below the data: no label is made of the like")
    taught: dict[Group, float] = Field(
        description="by group, the least probability of an object that is taught"
    )
    ignored: dict[Group, float] = Field(
        description="by group, the least probability of an object that is ignored"
    )
    constants: dict[Group, Group] = Field(
        default={},
        description="groups of which people left out most, each with one that is as probable where "
        "detectors say the same",
    )
    kinds_by: Name | None = Field(
        default=None, description="the detector that votes on crops of objects of unsure kind"
    )
    sets: list[ImageSet] = Field(min_length=1)

    @field_validator("taught", "ignored")
    @classmethod
    def _whole(cls, given: dict) -> dict:
        if missing := [group for group in GROUPS if group not in given]:
            raise ValueError(f"{', '.join(missing)} is missing")
        return given

    @field_validator("sets", "detectors")
    @classmethod
    def _own_names(cls, given: list) -> list:
        names = [one.name for one in given]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two are named {twice!r}: give each its own name")
        return given

    @field_validator("kinds_by")
    @classmethod
    def _is_there(cls, given: str | None, others: ValidationInfo) -> str | None:
        names = [one.name for one in others.data.get("detectors", ())]
        if given and given not in names:
            raise ValueError(f"{given!r} is none of the detectors {', '.join(names)}")
        return given

    @property
    def voices(self) -> list[Voice]:
        """Each detector in each of its views."""
        return [Voice(one.name, view) for one in self.detectors for view in one.views]

    def by_voice(self) -> list[Labeller]:
        """The detector of each voice."""
        return [one for one in self.detectors for _ in one.views]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        CompressionError: it cannot be read, or is not allowed; the text names key and remedy.
    """
    try:
        return Recipe.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise CompressionError(f"{path}: {first_problem(error.errors())}") from error
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise CompressionError(f"{path} cannot be read: {error}") from error
