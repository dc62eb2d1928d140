"""ROS arguments of a graph: what follows `--ros-args` on the command line, and parameter files.

Parameters are checked as if they were given as NAME:=VALUE; all else is given to every node.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.graph.config import Settings
from perception_nodes.graph.settings import SettingsError

FLAG, END = "--ros-args", "--"
PARAMETER = ("-p", "--param")
PARAMETER_FILE = "--params-file"
REMAP = ("-r", "--remap")
ENCLAVE = ("-e", "--enclave")
LOG_LEVEL = "--log-level"
LEVELS = ("debug", "info", "warn", "error", "fatal", "unset")
FOR_EVERY_NODE = (*REMAP, LOG_LEVEL, "--log-config-file", "--log-file-name", *ENCLAVE)
"""Flags that every node is given unchanged, with their values."""
SWITCHES = re.compile(r"--(enable|disable)-(rosout|stdout|external-lib)-logs")
PART = r"(?!\w*__)[A-Za-z_]\w*"
TARGET = re.compile(rf"(~?/)?{PART}(/{PART})*", re.ASCII)
"""Names that rcl renames to, in which it accepts no two underscores."""
NAMESPACE = re.compile(rf"/|(/{PART})+", re.ASCII)
PARAMETERS_KEY = "ros__parameters"
QOS = "qos_overrides"
"""Parameters of ROS itself, by topic; the nodes are given them unchanged."""


@dataclass(frozen=True)
class Section:
    """Parameters for the nodes whose name matches.

    Attributes:
        nodes: pattern of fully qualified names, as in a ROS parameter file: `/**`, `/ns/node`.
        values: the parameters.
        source: where the parameters are from, for errors.
    """

    nodes: str
    values: Mapping[str, Any]
    source: str

    @property
    def is_wildcard(self) -> bool:
        """Whether the pattern matches several nodes, which may belong to other packages."""
        return "*" in self.nodes

    def matches(self, name: str) -> bool:
        """Whether it is for a node; a pattern without a slash matches it in any namespace."""
        if "/" not in self.nodes and not self.is_wildcard:
            return self.nodes == name.rpartition("/")[2]
        parts = re.split(r"(/\*\*|/\*)", "/" + self.nodes.lstrip("/"))
        meaning = {"/**": r"(/\w+)*", "/*": r"/\w+"}
        return bool(re.fullmatch("".join(meaning.get(p, re.escape(p)) for p in parts), name))


@dataclass(frozen=True)
class RosArguments:
    """ROS arguments of a graph.

    Attributes:
        parameters: given to all nodes that have them.
        sections: parameters for some nodes, in the order in which they were given; the later of two
            values for one parameter is taken, but a value for a named node comes before one for a
            wildcard.
        namespace: of all nodes, `/` by default.
        for_every_node: remappings, log levels, overrides of quality of service and the like.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    namespace: str = "/"
    for_every_node: tuple[str, ...] = ()

    def only(self, names: Collection[str]) -> "RosArguments":
        """Without parameters of other names: launch gives each node those of all nodes."""
        kept = {name: value for name, value in self.parameters.items() if name in names}
        return replace(self, parameters=kept)

    def full_name(self, node: str) -> str:
        """The name of a node with its namespace."""
        rule = f"{node}:__ns:="
        own = [text.removeprefix(rule) for text in self.for_every_node if text.startswith(rule)]
        return f"{(own or [self.namespace])[0].rstrip('/')}/{node}"

    def topic_of(self, node: str, topic: str) -> str:
        """The full name of a node's topic, as the remappings leave it."""
        namespace = self.full_name(node).rpartition("/")[0]

        def full(name: str) -> str:
            if name.startswith("~"):
                return self.full_name(node) + name[1:]
            return name if name.startswith("/") else f"{namespace}/{name}"

        for flag, text in pairwise(self.for_every_node):
            before, _, target = text.replace("rostopic://", "").partition(":=")
            of_node, _, name = before.rpartition(":")
            if flag in REMAP and of_node in ("", node) and full(name) == full(topic):
                return full(target)
        return full(topic)

    def values(self, node: str, settings: type[Settings]) -> dict[str, Any]:
        """The parameters given to a node of this name.

        Raises:
            SettingsError: a parameter given to this very node is unknown.
        """
        found: dict[str, Any] = {}
        full_name = self.full_name(node)
        for section in sorted(self.sections, key=lambda section: not section.is_wildcard):
            if not section.matches(full_name):
                continue
            for name, value in section.values.items():
                if name in settings.model_fields:
                    found[name] = value
                elif name.startswith(QOS):
                    continue  # the nodes read the file themselves
                elif not section.is_wildcard:
                    known = f"known are {', '.join(settings.model_fields)}"
                    lacking = f"{section.source}: {node} has no parameter {name!r}"
                    raise SettingsError(f"{lacking}; {known}", name)
        return found


NO_ROS_ARGUMENTS = RosArguments()


def split_ros_arguments(arguments: Sequence[str]) -> tuple[list[str], RosArguments]:
    """Separate what follows `--ros-args`, up to `--` or the end.

    Raises:
        SettingsError: a ROS argument is incomplete or unknown, or a file is unusable.
    """
    others: list[str] = []
    parameters: dict[str, Any] = {}
    sections: list[Section] = []
    for_every_node: list[str] = []
    namespace = "/"
    remaining, is_ros = iter(arguments), False
    for argument in remaining:
        if argument == FLAG:
            is_ros = True
        elif is_ros and argument == END:
            is_ros = False
        elif not is_ros:
            others.append(argument)
        elif argument in PARAMETER:
            text = _value_of(argument, remaining)
            node, name, value = _parameter(text)
            if name.startswith(QOS):
                for_every_node += [argument, text]
            elif node:
                sections.append(Section(node, {name: value}, f"ROS argument -p {node}:{name}"))
            else:
                parameters[name] = value
        elif argument == PARAMETER_FILE:
            path = Path(_value_of(argument, remaining))
            found = read_parameter_file(path)
            sections += found
            if any(name.startswith(QOS) for section in found for name in section.values):
                for_every_node += [argument, str(path.resolve())]
        elif argument in FOR_EVERY_NODE:
            text = _value_of(argument, remaining)
            if argument == LOG_LEVEL:
                _check_level(text)
            if argument in REMAP:
                namespace = _namespace(text, namespace)
            for_every_node += [argument, text]
        elif SWITCHES.fullmatch(argument):
            for_every_node.append(argument)
        else:
            raise SettingsError(f"ROS argument {argument!r} is unknown")
    return others, RosArguments(parameters, tuple(sections), namespace, tuple(for_every_node))


def read_parameter_file(path: Path) -> list[Section]:
    """The sections of a ROS parameter file.

    Raises:
        SettingsError: it cannot be read, or is not a parameter file.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"parameter file {path} cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"parameter file {path} is not YAML: {error}") from error
    return list(_sections(content, "", path))


def _sections(content: Any, prefix: str, path: Path) -> Iterator[Section]:
    """Give the sections; namespaces may be nested, or part of a node's name."""
    if not isinstance(content, dict):
        what = f"{prefix or 'it'} is not a mapping of nodes' names to {PARAMETERS_KEY}"
        raise SettingsError(f"parameter file {path}: {what}")
    for key, value in content.items():
        if key != PARAMETERS_KEY:
            yield from _sections(value, f"{prefix}/{key}" if prefix else str(key), path)
        elif not prefix or not isinstance(value, dict):
            wanted = f"{PARAMETERS_KEY} must be a mapping below a node's name"
            raise SettingsError(f"parameter file {path}: {wanted}")
        else:
            # YAML may have keys of other types.
            values = {str(name): one for name, one in value.items()}
            yield Section(prefix, values, f"parameter file {path}")


def _parameter(text: str) -> tuple[str, str, Any]:
    """Node, name and value from `[NODE:]NAME:=VALUE`; the value is YAML."""
    before, separator, value = text.partition(":=")
    node, _, name = before.rpartition(":")
    if not separator or not name:
        raise SettingsError(f"ROS argument -p {text!r} is not of the form NAME:=VALUE")
    try:
        return node, name, parse_yaml(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"ROS argument -p {text!r}: {value!r} is not YAML") from error


def _namespace(remapping: str, namespace: str) -> str:
    """The namespace after a remapping rule."""
    name, separator, value = remapping.partition(":=")
    if not separator:
        raise SettingsError(f"ROS argument -r {remapping!r} is not of the form FROM:=TO")
    if name in ("__node", "__name"):
        raise SettingsError(f"ROS argument -r {remapping}: a graph has several nodes, name one")
    if "*" in name:
        raise SettingsError(f"ROS argument -r {remapping}: ROS takes no * there; name each topic")
    allowed = NAMESPACE if name.endswith("__ns") else TARGET
    if not allowed.fullmatch(value):
        form = "give one such as /truck/objects, of letters, digits and single underscores"
        what = f"{value!r} is no name that ROS takes"
        raise SettingsError(f"ROS argument -r {remapping}: {what}; {form}")
    return value if name == "__ns" else namespace


def _check_level(text: str) -> None:
    """Check `[LOGGER:=]LEVEL`."""
    level = text.rpartition(":=")[2]
    if level.lower() not in LEVELS:
        allowed = f"it must be one of {', '.join(LEVELS)}"
        raise SettingsError(f"log level {level!r} is not allowed, {allowed}")


def _value_of(flag: str, remaining: Iterator[str]) -> str:
    if not (value := next(remaining, "")):
        raise SettingsError(f"ROS argument {flag} needs a value")
    return value
