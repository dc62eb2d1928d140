"""The page of one model: its licence, its weaknesses, its latency here, what it is made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from perception_nodes.core.decode import DecodeSettings
from perception_nodes.evaluation.classes import MIN_CLASS_OBJECTS
from perception_nodes.evaluation.matching import HEIGHT_BANDS_PX
from perception_nodes.evaluation.mistakes import Examined
from perception_nodes.evaluation.mistakes_shown import section
from perception_nodes.evaluation.models import is_busy
from perception_nodes.networks.class_names import name_in
from perception_nodes.networks.model import Model
from perception_nodes.networks.terms import MEANING, UNSTATED, Terms, materials, terms_of
from perception_nodes.report import page
from perception_nodes.report.page import NO_VALUE

SELDOM = 0.5
"""A recall or precision below this share is a weakness."""
MIN_DARK_OBJECTS = 100
"""Least number of objects on dark images, over all classes, to judge a model at night."""
FRAME_WIDTH, FRAME_HEIGHT = 1920, 1080
"""Size in pixels of the camera frames that heights are converted to."""
Timed = Mapping[str, Any] | None
Sets = Sequence[Examined]
Accuracy = Mapping[str, Mapping[str, Any]]
"""The facts of `Evaluation.facts`, by the set's name."""


def render(
    model: Model,
    accuracy: Accuracy,
    timed: Timed,
    examined: Sets = (),
    pictures: int = 0,
    examined_score: float = DecodeSettings.score_threshold,
) -> str:
    """The page as HTML text.

    Args:
        model: the model.
        accuracy: its accuracy by set.
        timed: result of `ModelsBench.run` for this model alone; None if it was not timed.
        examined: its reports on labelled sets, for counts, curves, confusions and pictures.
        pictures: number of worst frames of a set to show, and of typical ones.
        examined_score: lowest score of these reports.

    Raises:
        DataError: an image can no longer be decoded.
    """
    description = yaml.safe_load((model.folder / "model.yaml").read_text(encoding="utf-8"))
    tone, sentence = _verdict(model, description)
    parts = {part: _over_sets(model, accuracy, part) for part in ("classes", "heights", "light")}
    machine = timed and timed["machine"]
    return page.render(
        "card.html.j2",
        heading=f"Model {model.name}",
        tone=tone,
        verdict=sentence,
        weaknesses=weaknesses(model, accuracy, parts) if accuracy else [],
        score=DecodeSettings.score_threshold,
        parts=parts,
        sets=accuracy,
        timed=timed,
        examined=[section(one, pictures) for one in examined],
        examined_score=examined_score,
        is_busy=machine and is_busy(machine),
        origin=_origin(model, description),
        facts=_facts(model, description),
    )


def weaknesses(
    model: Model, accuracy: Accuracy, parts: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[str]:
    """What a user should not count on, a sentence each."""
    classes, heights, light = (parts[part] for part in ("classes", "heights", "light"))
    found = [
        f"Of {one['objects']} labelled objects of {name} it reports {one['recall']:.0%}."
        for name, one in classes.items()
        if one["objects"] >= MIN_CLASS_OBJECTS and one["recall"] < SELDOM
    ]
    proven = {name for name, one in classes.items() if one["objects"] >= MIN_CLASS_OBJECTS}
    if unproven := [name for name in model.classes if name not in proven]:
        names = ", ".join(unproven)
        found.append(f"No evidence of {names}: fewer than {MIN_CLASS_OBJECTS} such objects.")
    best = max((one["map50"] for one in heights.values()), default=0)
    low = [one for one in heights.items() if one[1]["map50"] < best / 2]
    for band, one in low:
        in_frame = f"{_height(band, _scale(model))} in a frame of {FRAME_WIDTH} × {FRAME_HEIGHT}"
        found.append(
            f"Objects of {_height(band)} in its input ({in_frame}): AP50 "
            f"{one['map50']:.2f}, of others up to {best:.2f}."
        )
    right = [p for facts in accuracy.values() if (p := facts.get("precision")) is not None]
    if right and min(right) < SELDOM:
        found.append(
            f"Of its reports {min(right):.0%} to {max(right):.0%} are labelled, by set: the others "
            "are false alarms, or objects that nobody has labelled."
        )
    dark, bright = (light.get(name, {"objects": 0, "map50": 0}) for name in ("dark", "bright"))
    if dark["objects"] < MIN_DARK_OBJECTS:
        found.append(f"No evidence at night: {dark['objects']} labelled objects on dark images.")
    elif dark["map50"] < bright["map50"]:
        found.append(
            f"On dark images AP50 is {dark['map50']:.2f} ({dark['objects']} objects), on others "
            f"{bright['map50']:.2f}."
        )
    return found


def _verdict(model: Model, description: Mapping[str, Any]) -> tuple[str, str]:
    """The tone and the words that say what it is, and what it may be used for."""
    eight = "in 8 bits" if model.precision == "int8" else f"in {model.precision}"
    some = ", ".join(model.classes[:8])
    more = f" and {len(model.classes) - 8} more" if len(model.classes) > 8 else ""
    what = f"It finds {some}{more}, in {model.input.width} × {model.input.height} pixels, {eight}."
    worst = max(terms_of(one) for _, one in materials(model.license, description.get("data")))
    licence = f"The licence of its weights is {model.license.partition(' (')[0]}"
    tone = "good" if worst <= Terms.JUDGED else "fair" if worst < Terms.UNSTATED else "bad"
    return tone, f"{what} {licence}. It {MEANING[worst]}."


def _over_sets(model: Model, accuracy: Accuracy, part: str) -> dict[str, dict[str, Any]]:
    """Objects, AP50 and recall of each class or band, over all sets, weighted by objects."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for facts in accuracy.values():
        for name, one in facts.get(part, {}).items():
            key = name_in(model.classes, name) if part == "classes" else name
            found.setdefault(key, []).append(one)
    return {
        name: {
            "objects": (objects := sum(one["objects"] for one in some)),
            **{
                key: sum(one["objects"] * one[key] for one in some) / objects
                for key in ("map50", "recall")
                if key in some[0]
            },
        }
        for name, some in found.items()
    }


def _scale(model: Model) -> float:
    """Height of an object in the network's input, as a share of that in a camera's frame."""
    scale = model.input.height / FRAME_HEIGHT
    if model.input.resize != "stretch":
        scale = min(scale, model.input.width / FRAME_WIDTH)
    return scale


def _height(band: str, scale: float = 1.0) -> str:
    """A band of heights in words, divided by a scale."""
    low, high = HEIGHT_BANDS_PX[band]
    if low == 0:
        return f"less than {high / scale:.0f} px"
    largest = high == max(limit for _, limit in HEIGHT_BANDS_PX.values())
    return f"{low / scale:.0f} px {'and more' if largest else f'to {high / scale:.0f} px'}"


def _origin(model: Model, description: Mapping[str, Any]) -> list[list[str]]:
    """What the weights derive from: each step, and its terms."""
    weights, *data = map(list, materials(model.license, description.get("data")))
    rows = [weights]
    imported = description.get("imported") or {}
    if imported:
        by = f"who states the licence: {imported.get('license_by', NO_VALUE)}"
        by = f"{imported.get('from', 'head ' + imported.get('head', NO_VALUE))}; {by}"
        rows.append([f"imported from {imported.get('file', NO_VALUE)}", by])
    if model.parent:
        rows.append([f"made from {model.parent}", "its model.yaml says more"])
    rows += data or [["trained on", UNSTATED[-1]]]
    if (notice := model.folder.parent / "NOTICE").is_file():
        rows.append(["authors, links and changes", str(notice)])
    return rows


def _facts(model: Model, description: Mapping[str, Any]) -> list[list[str]]:
    quantization, imported = (description.get(key) or {} for key in ("quantization", "imported"))
    facts = {
        "input": f"{model.input.width} × {model.input.height}, {model.input.resize}",
        "precision": model.precision,
        "quantization": quantization.get("scheme"),
        "calibration frames": quantization.get("calibration_frames"),
        "GMAC": model.gmac,
        "parameters": None if model.parameters is None else f"{model.parameters:,}",
        "activation": model.activation,
        "head": model.outputs.head,
        "classes merged": ", ".join(map(" of ".join, (imported.get("merged") or {}).items())),
        "file": f"{model.file}, {model.path.stat().st_size / 1e6:.1f} MB",
        "sha256": model.sha256,
        "imported file's sha256": imported.get("sha256"),
    }
    return [[name, str(value)] for name, value in facts.items() if value not in (None, "")]
