"""The adapters: how each detector is started and heard, read from `adapters.yaml`."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from perception_nodes.core.errors import PerceptionError, first_problem
from perception_nodes.drives.schemas import DETECTIONS
from perception_nodes.system.children import start

HERE = Path(__file__).resolve().parent
OWN = HERE / "adapters.yaml"
OURS = "ours"
CHECK_TIMEOUT_S = 60
OF_A_ROS = (
    "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "COLCON_PREFIX_PATH", "LD_LIBRARY_PATH",
    "PYTHONHOME", "PYTHONPATH", "ROS_DISTRO", "ROS_VERSION", "VIRTUAL_ENV",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)  # fmt: skip
"""Variables of a ROS environment, which must not get mixed into another one."""


class AdapterError(PerceptionError):
    """An adapter, or a choice of one, cannot be used."""


class Part(BaseModel):
    """Part of an adapter's file, where a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Result(Part):
    topic: str
    type: str = Field(pattern=r"^\w+/msg/\w+$")
    reliability: Literal["reliable", "best_effort"] = "reliable"
    boxes: Literal["source", "none"] = "source"

    @property
    def unread(self) -> str:
        """Why its boxes cannot be compared with the truth; empty if they can."""
        if self.type != DETECTIONS:
            return f"boxes are read from {DETECTIONS} alone, and it sends {self.type}"
        if self.boxes == "none":
            return "its boxes or classes are not those of the source image"
        return ""


class Reports(Part):
    topic: str
    type: str = Field(pattern=r"^\w+/msg/\w+$")
    field: str
    missed: tuple[int | str, ...]
    lost: tuple[str, ...] = ()
    number: str = ""

    @field_validator("lost")
    @classmethod
    def _is_range(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(names) not in (0, 2):
            raise ValueError(f"two fields are wanted, or none; there are {len(names)}")
        return names


class Check(Part):
    run: str
    lacks: str
    remedy: str


class Adapter(Part):
    """See the comment in `adapters.yaml`."""

    title: str
    licence: str
    command: str
    image_topic: str
    result: Result
    ros: Literal["this", "sourced"] = "sourced"
    note: str = ""
    values: dict[str, str | int | float] = {}
    environment: dict[str, str] = {}
    reports: Reports | None = None
    ready: str = ""
    start_s: float = 180
    kill: str = ""
    version: str = "true"
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Peer:
    """An adapter with the user's settings: what runs.

    Attributes:
        name: its key in the file.
        adapter: what the file says.
        setups: files to source before anything of it runs.
        more: words added to its command.
    """

    name: str
    adapter: Adapter
    setups: Sequence[Path] = ()
    more: str = ""

    @property
    def is_sourced(self) -> bool:
        """Whether it runs in other workspaces than this Python's."""
        return self.adapter.ros == "sourced" and bool(self.setups)

    def filled(self, text: str, **frames: object) -> str:
        """A command with its braces filled in, quoted for bash."""
        own = {name: os.path.expanduser(str(v)) for name, v in self.adapter.values.items()}
        values = {
            **own,
            "python": "python3" if self.is_sourced else sys.executable,
            "here": HERE,
            "root": HERE.parents[1],
            "image_topic": self.adapter.image_topic,
            "result_topic": self.adapter.result.topic,
            **frames,
        }
        try:
            return text.format_map({name: shlex.quote(str(v)) for name, v in values.items()})
        except (KeyError, ValueError, IndexError) as error:
            raise AdapterError(
                f"adapter {self.name}: {{{error}}} in {text!r} is unknown; known are "
                f"{', '.join(sorted(values))}; a brace that is meant is written twice"
            ) from error

    def shell(self, script: str) -> list[str]:
        """The words that run a script of bash in its environment."""
        if not self.is_sourced:
            return ["bash", "-c", script]
        own = os.path.join(sys.prefix, "bin")
        path = [one for one in os.environ.get("PATH", "").split(os.pathsep) if one != own]
        removed = [word for name in OF_A_ROS for word in ("-u", name)]
        sourced = "".join(f"source {shlex.quote(str(file))} && " for file in self.setups)
        return ["env", *removed, f"PATH={os.pathsep.join(path)}", "bash", "-c", sourced + script]

    def command(self, **frames: object) -> list[str]:
        """The words that start it."""
        return self.shell(f"{self.filled(self.adapter.command, **frames)} {self.more}")

    def script(self, name: str, *arguments: object) -> list[str]:
        """The words that run a script of this folder in its environment."""
        words = [self.filled("{python}"), str(HERE / name), *map(str, arguments)]
        return self.shell(f"exec {shlex.join(words)}")

    def output(self, script: str) -> tuple[bool, str]:
        """Whether a command of the adapter succeeds, and the last line that it prints."""
        words = self.shell(self.filled(script))
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with start(words, self.adapter.environment, **streams) as process:
            try:
                said, _ = process.communicate(timeout=CHECK_TIMEOUT_S)
            except BaseException as error:
                with suppress(ProcessLookupError):  # end what it has started too
                    os.killpg(process.pid, signal.SIGKILL)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                return False, f"no end after {CHECK_TIMEOUT_S} s"
        lines = said.decode(errors="replace").split("\n")
        return process.returncode == 0, next((one for one in reversed(lines) if one.strip()), "")

    def missing(self) -> tuple[str, str] | None:
        """What it lacks here and what to do, or None if it can run."""
        for file in self.setups if self.is_sourced else ():
            if not file.is_file():
                return f"{file} does not exist", "name the setup.bash of a workspace with --setup"
        types = {self.adapter.result.type}
        types |= {self.adapter.reports.type} if self.adapter.reports else set()
        packages = ", ".join(sorted({f"{name.split('/')[0]}.msg" for name in types}))
        needed = Check(
            run=f"{{python}} -c 'import rclpy, sensor_msgs.msg, {packages}'",
            lacks=f"rclpy, sensor_msgs.msg and {packages} are not all in its Python",
            remedy="source the workspace that has them: --setup .../setup.bash",
        )
        for check in (*self.adapter.checks, needed):
            if not self.output(check.run)[0]:
                return self.filled(check.lacks), check.remedy
        return None

    def version(self) -> str:
        """Its version, or why it is not known."""
        succeeded, said = self.output(self.adapter.version)
        return said if succeeded else f"not known ({said})"


def read(files: Iterable[Path]) -> dict[str, Adapter]:
    """The adapters of several files; a later one replaces an earlier one of its name.

    Raises:
        AdapterError: a file cannot be read, or does not describe adapters.
    """
    found: dict[str, Adapter] = {}
    for file in files:
        try:
            entries = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise AdapterError(f"{file} cannot be read: {error}") from error
        if not isinstance(entries, dict):
            raise AdapterError(f"{file}: adapters by name are wanted, as in {OWN}")
        for name, entry in entries.items():
            try:
                found[str(name)] = Adapter.model_validate(entry)
            except ValidationError as error:
                problem = first_problem(error.errors())
                raise AdapterError(f"{file}: {name}: {problem}; see {OWN}") from error
    return found


def chosen(
    adapters: Mapping[str, Adapter],
    names: Sequence[str],
    settings: Iterable[str],
    more: Iterable[str],
    setups: Sequence[Path],
) -> list[Peer]:
    """The peers to run, with their settings.

    Args:
        adapters: all that are known.
        names: of those that are wanted; all if there are none.
        settings: as PEER.NAME=VALUE.
        more: as PEER=WORDS.
        setups: files to source.

    Raises:
        AdapterError: a name is unknown.
    """
    values: dict[str, dict[str, str]] = {}
    for one in settings:
        place, is_given, value = one.partition("=")
        name, _, key = place.partition(".")
        if not is_given or key not in _known(adapters, name, f"--set {one}").values:
            keys = ", ".join(f"{name}.{key}" for key in adapters[name].values) or "none"
            raise AdapterError(f"--set {one}: PEER.NAME=VALUE is wanted; {name} has {keys}")
        values.setdefault(name, {})[key] = value
    words: dict[str, str] = {}
    for one in more:
        name, is_given, added = one.partition("=")
        _known(adapters, name, f"--more {one}")
        if not is_given:
            raise AdapterError(f"--more {one}: PEER=WORDS is wanted")
        words[name] = f"{words.get(name, '')} {added}".strip()
    peers = []
    for name in dict.fromkeys(names or adapters):
        adapter = _known(adapters, name, name)
        settled = {**adapter.values, **values.get(name, {})}
        adapter = adapter.model_copy(update={"values": settled})
        peers.append(Peer(name, adapter, setups, words.get(name, "")))
    return peers


def _known(adapters: Mapping[str, Adapter], name: str, given: str) -> Adapter:
    if name not in adapters:
        raise AdapterError(f"{given}: peer {name!r} is unknown; known are {', '.join(adapters)}")
    return adapters[name]
