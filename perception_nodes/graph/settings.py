"""What a parameter is: a field of a settings class, its type, its allowed range, and its errors.

The classes of the nodes are in `graph.config`. A value outside its range stops start-up with one
line.
"""

import ast
import inspect
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from perception_nodes.cameras.credentials import redacted
from perception_nodes.core.errors import PerceptionError, in_our_words

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,30}$")]
_PART = r"(?:[A-Za-z_]|\{camera\})(?:[A-Za-z0-9_]|\{camera\})*"
Topic = Annotated[
    str,
    Field(
        pattern=f"^(?:~?/)?{_PART}(?:/{_PART})*$",
        max_length=200,
        examples=["/camera/image_raw", "camera/{camera}/image_raw"],
    ),
]
_SOURCES = "dds shm v4l2:/dev/video0 gst:PIPELINE lib:LIBRARY.so rtsp://HOST/PATH drive.mp4"
# A text with a dot or slash may be a file.
_SOURCE = r"^(dds|shm|v4l2:.+|gst:.+|lib:.+|.*[./].*)$"
Source = Annotated[str, Field(pattern=_SOURCE, examples=_SOURCES.split())]
CHANGEABLE: dict[str, Any] = {"changeable": True}
"""Marks a parameter that can be changed while the node runs."""


def changeable(**field: Any) -> Any:
    """Describe a parameter that can be changed while the node runs, as pydantic's `Field` does."""
    return Field(json_schema_extra=CHANGEABLE, **field)


S = TypeVar("S", bound=BaseModel)


class Described(BaseModel):
    """A model whose fields are described by the docstrings behind them."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Describe the fields; pydantic can do that too, but takes a tenth of a second."""
        for name, field in cls.model_fields.items():
            field.description = field.description or _docstrings(cls.__module__)[cls.__name__, name]


@cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """The docstrings of a module's class attributes, each on one line, by class and name."""
    found: dict[tuple[str, str], str] = defaultdict(str)
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    for one in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for attribute, behind in pairwise(one.body):
            if isinstance(attribute, ast.AnnAssign) and isinstance(behind, ast.Expr):
                text = ast.literal_eval(behind.value)
                found[one.name, ast.unparse(attribute.target)] = " ".join(text.split())
    return found


class SettingsError(PerceptionError):
    """A parameter whose value is not allowed; one line that names it, the value and the range.

    Attributes:
        parameter: the parameter's name; empty where the error is not about a single parameter.
    """

    def __init__(self, text: str, parameter: str = "") -> None:
        super().__init__(redacted(text))
        self.parameter = parameter


def is_changeable(field: FieldInfo) -> bool:
    """Whether a parameter can be changed while the node runs."""
    return field.json_schema_extra == CHANGEABLE


def same(settings_type: type[BaseModel], name: str) -> Any:
    """The definition of another class's parameter, of type Any like the result of `Field`."""
    return settings_type.model_fields[name]


def check(settings_type: type[S], values: dict[str, Any]) -> S:
    """Build settings, or say in one line which value is not allowed.

    Raises:
        SettingsError: a value is outside its range, or two contradict each other.
    """
    try:
        return settings_type(**values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            text = str(first.get("ctx", {}).get("error", in_our_words(first["msg"])))
            raise SettingsError(f"parameter {text}", text.partition(":")[0]) from error
        name = str(first["loc"][0])
        allowed = allowed_range(settings_type.model_fields[name])
        given = f"{first['input']!r} is not allowed"
        raise SettingsError(f"parameter {name}: {given}, it must be {allowed}", name) from error


def refuse(values: Mapping[str, Any], own: Collection[str]) -> None:
    """Refuse parameters that a command sets itself.

    Args:
        values: what the user gives.
        own: names of the command's parameters.

    Raises:
        SettingsError: one of them is given.
    """
    for name in values:
        if name in own:
            remedy = "leave it out, or see --help for an option"
            raise SettingsError(f"parameter {name}: is set by the command itself; {remedy}", name)


def allowed_range(field: FieldInfo) -> str:
    """The allowed values of a parameter, in words."""
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(annotation))
    if annotation is bool:
        return "true or false"
    low, high = numeric_range(field)
    kind = {int: "a whole number", float: "a number"}.get(annotation, "a text")  # type: ignore[arg-type]
    if low is not None and high is not None:
        return f"{kind} from {low:g} to {high:g}"
    if low is not None:
        return f"{kind} of at least {low:g}"
    if field.examples:
        return f"{kind} such as {', '.join(map(str, field.examples))}"
    patterns = [item.pattern for item in field.metadata if getattr(item, "pattern", None)]
    return f"{kind} that matches {patterns[0]}" if patterns else kind


def numeric_range(field: FieldInfo) -> tuple[float | None, float | None]:
    """Lowest and highest value of a number."""
    low = next((item.ge for item in field.metadata if hasattr(item, "ge")), None)
    return low, next((item.le for item in field.metadata if hasattr(item, "le")), None)
