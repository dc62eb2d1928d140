"""The accuracy that a model.yaml states, checked before a page is made of it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError

from perception_nodes.core.errors import first_problem
from perception_nodes.evaluation.matching import HEIGHT_BANDS_PX
from perception_nodes.networks.model import Model, ModelError


def _known(band: str) -> str:
    if band not in HEIGHT_BANDS_PX:
        raise ValueError(f"the bands of heights are {', '.join(HEIGHT_BANDS_PX)}")
    return band


Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel, frozen=True):
    objects: int = Field(ge=1)
    map50: Share


class _Class(_Part, frozen=True):
    recall: Share


class _Measured(BaseModel, frozen=True):
    """What `Evaluation.facts` says of a set."""

    images: int
    map50_95: Share
    map50: Share
    confidence: tuple[Share, Share]
    precision: Share | None = None
    classes: dict[str, _Class] = {}
    heights: dict[Annotated[str, AfterValidator(_known)], _Part] = {}
    light: dict[Literal["dark", "bright"], _Part] = {}


def stated_accuracy(model: Model) -> dict[str, dict[str, Any]]:
    """The accuracy of a model by set, as its file states it.

    Raises:
        ModelError: something of it is missing, or cannot be.
    """
    try:
        stated = TypeAdapter(dict[str, _Measured]).validate_python(model.accuracy)
    except ValidationError as error:
        raise ModelError(
            f"{model.folder / 'model.yaml'}: accuracy.{first_problem(error.errors())}; correct "
            "it, or measure with --data"
        ) from error
    return {name: one.model_dump() for name, one in stated.items()}
