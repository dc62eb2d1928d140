"""Reads scenario files, and checks them against the schema, the graph and the drive."""

import importlib.resources
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import PydanticCustomError
from ruamel.yaml.error import YAMLError

from perception_nodes.core.errors import PerceptionError, in_our_words
from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.drives.bag import open_drive
from perception_nodes.drives.schemas import COMPRESSED_IMAGE
from perception_nodes.faults.graphs import HIL
from perception_nodes.faults.scenario import OWN_KEYS, Scenario, wrong
from perception_nodes.faults.yaml_lines import find, with_lines
from perception_nodes.graph.settings import SettingsError, refuse

SUFFIXES = (".yaml", ".yml")
SET_BY_THE_BENCH = frozenset(
    {"listeners", "live", "faults", "recording", "sent_file", "started_file", "played_file"}
)
NOT_FOR_THE_GRAPH = {
    "bag": "the drive has a key of its own: drive",
    "rate": "a drive is played at its own speed, by which its faults are timed; leave it out",
}
"""Parameters that a scenario must not set in `graph`, and why."""
RAW_ONLY = frozenset({"cdr_length", "encoding_unknown", "size_change"})
"""Faults that only raw images can have."""
JPEG_ONLY = frozenset({"jpeg_truncated"})
"""Faults that only JPEG images can have."""


class ScenarioError(PerceptionError):
    """A scenario that cannot be used; one line that says why."""


def shipped() -> dict[str, Path]:
    """The scenarios that come with the package, by name."""
    folder = Path(str(importlib.resources.files("perception_nodes.faults"))) / "scenarios"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_scenario(name_or_file: str, given: Mapping[str, Any] | None = None) -> Scenario:
    """Read a scenario by its name, or from a file.

    Args:
        name_or_file: name of a shipped scenario, or path of a .yaml file.
        given: parameters of the graph that take precedence over those of the file; `bag` replaces
            its drive.

    Raises:
        ScenarioError: it does not exist or cannot be run: file, line, key and reason.
        SettingsError: a given parameter cannot be used.
    """
    known = shipped()
    path = known.get(name_or_file, Path(name_or_file))
    if name_or_file not in known and path.suffix not in SUFFIXES:
        raise ScenarioError(
            f"scenario {name_or_file!r} is unknown; known are {', '.join(known)}, or a .yaml file"
        )
    content, values = _parsed(path)
    given = dict(given or {})
    bag = {"drive": given["bag"]} if "bag" in given else {}
    graph = values.get("graph", {})
    if isinstance(graph, dict):
        graph = {**graph, **{name: value for name, value in given.items() if name != "bag"}}
    try:
        scenario = Scenario.model_validate({"name": path.stem, **values, **bag, "graph": graph})
        _check_graph(scenario)
        _check_faults(scenario)
        return scenario
    except ValidationError as error:
        first = error.errors()[0]
        where = (*first["loc"], *first.get("ctx", {}).get("key", ()))
        reason = in_our_words(first["msg"])
    except PydanticCustomError as error:
        where, reason = (error.context or {})["key"], error.message()
    parameter = "bag" if where == ("drive",) else str(where[-1]) if where[:1] == ("graph",) else ""
    if parameter in given:
        raise SettingsError(f"parameter {parameter}: {reason}", parameter)
    line, key = find(content, where)
    raise ScenarioError(f"{path}:{line}: {key or 'scenario'}: {reason}")


def _parsed(path: Path) -> tuple[Any, dict[str, Any]]:
    """Parse a file; return its content with lines, and as plain values."""
    try:
        text = path.read_text(encoding="utf-8")
        values = parse_yaml(text)
        content = with_lines(text)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        known = f"; {path.stem} without {path.suffix} comes with us"
        hint = known if path.stem in shipped() else ""
        raise ScenarioError(f"{path} cannot be read: {why}{hint}") from error
    except (yaml.YAMLError, YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = 1 if mark is None else mark.line + 1
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ScenarioError(f"{path}:{line}: no YAML: {reason}") from error
    if not isinstance(values, dict):
        raise ScenarioError(f"{path}:1: holds no keys; see docs/reference/scenario-files.md")
    for name in values:
        if not isinstance(name, str):
            line, _ = find(content, (name,))
            raise ScenarioError(f"{path}:{line}: {name}: a key must be a text")
    return content, values


def _check_graph(scenario: Scenario) -> None:
    """Check that the graph takes the parameters, and that the drive exists."""
    for name in scenario.graph:
        if name in NOT_FOR_THE_GRAPH:
            raise wrong(NOT_FOR_THE_GRAPH[name], "graph", name)
    try:
        refuse(scenario.graph, SET_BY_THE_BENCH)
        HIL.nodes({"bag": scenario.drive, **scenario.graph})
    except SettingsError as error:
        name = error.parameter
        text = str(error).removeprefix(f"parameter {name}: ").removeprefix(f"parameter {name!r} ")
        raise wrong(text, *(("drive",) if name == "bag" else ("graph", name))) from error


def _check_faults(scenario: Scenario) -> None:
    """Check that each fault can be put into this drive, and ends before it does."""
    with closing(open_drive(scenario.drive, str(scenario.graph.get("topic", "")))) as drive:
        duration_s = scenario.duration_s or drive.duration_ns / 1e9
        sends_jpeg = bool(scenario.jpeg_quality) or drive.message_type == COMPRESSED_IMAGE
        kinds = {fault.kind for fault in scenario.faults}
        calibrated = "calibration_wrong" in kinds and drive.camera_info() is not None
    for number, fault in enumerate(scenario.faults):
        kind = ("faults", number, "kind")
        for heeding, (key, _) in OWN_KEYS.items():
            if key in fault.model_fields_set and fault.kind != heeding:
                raise wrong(
                    f"{fault.kind} does not heed {key}: {getattr(fault, key):g}; leave it out, or "
                    f"take {heeding}",
                    *("faults", number, key),
                )
        if fault.kind in RAW_ONLY and sends_jpeg:
            raise wrong(f"{fault.kind} needs raw images, and the drive is sent as JPEG", *kind)
        if fault.kind in JPEG_ONLY and not sends_jpeg:
            raise wrong(f"{fault.kind} needs a drive that is sent as JPEG: jpeg_quality", *kind)
        if fault.kind == "calibration_wrong" and not calibrated:
            raise wrong(f"{fault.kind} needs a drive with CameraInfo", *kind)
        times = ("after_s", fault.after_s, "begins"), ("for_s", fault.end_s, "ends")
        for key, at_s, verb in times:
            if at_s >= duration_s:
                raise wrong(
                    f"{fault.kind} {verb} {at_s:g} s after the first frame, and the drive is over "
                    f"after {duration_s:g} s",
                    *("faults", number, key),
                )
