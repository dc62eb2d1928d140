"""HTML pages: each is one file that needs nothing else, made from a template of this folder."""

from base64 import b64encode
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from perception_nodes.core.budget import STAGES
from perception_nodes.report.palette import STAGE_COLOURS, STATUS_COLOURS, STATUS_SHAPES
from perception_nodes.system.environment import package_version

FOLDER = Path(__file__).parent
NO_VALUE = "–"
UNTIMED = "detected, time not judged"
"""Status OK in a lockstep run, where frames wait for each other."""
NO_RESULT = "no result"
"""Text for the latency of a frame without detections, which is slower than all others."""
MAX_LINES = 60
"""Changes between two runs that a page lists; the JSON file beside it has all of them."""


def render(template: str, **values: Any) -> str:
    """A page as HTML text; every value is escaped unless it is `Markup` or a chart.

    Args:
        template: name of a file in `templates/`.
        values: what it is filled with.
    """
    made = datetime.now(timezone.utc).isoformat(" ", "minutes")
    about = {"made": made, "version": package_version()}
    return ENVIRONMENT.get_template(template).render({**about, **values})


def shown(value: float | None, form: str, unknown: str = NO_VALUE) -> str:
    """A number as text, such as `{:.2f} ms`; a dash, or another text, for one that is not known."""
    return unknown if value is None else form.format(value)


def counted(count: int, thing: str) -> str:
    """`no frame`, `1 frame`, `2 frames`."""
    return f"{count or 'no'} {thing}{'s' if count > 1 else ''}"


def jpeg_url(jpeg: bytes) -> str:
    """A JPEG as an address that holds it."""
    return f"data:image/jpeg;base64,{b64encode(jpeg).decode()}"


def _asset(name: str) -> Markup:
    """A file of ours as a part of a page."""
    return Markup((FOLDER / "assets" / name).read_text(encoding="utf-8"))


ENVIRONMENT = Environment(
    loader=FileSystemLoader(FOLDER / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.globals.update(
    dict(MAX_LINES=MAX_LINES, NO_VALUE=NO_VALUE, NO_RESULT=NO_RESULT, asset=_asset),
    STAGE_COLOURS=dict(zip(STAGES, STAGE_COLOURS, strict=True)),
    STATUS_LOOKS={s: (STATUS_SHAPES[s], c) for s, c in STATUS_COLOURS.items()},
)
ENVIRONMENT.filters.update(shown=shown, counted=counted, jpeg_url=jpeg_url)
