"""A scenario: a drive, a graph, a fault, and what is expected of the graph; a YAML file."""

import importlib.resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

CameraFaultKind = Literal[
    "camera_stop",
    "camera_freeze",
    "camera_drop",
    "camera_stall_burst",
    "camera_out_of_order",
    "stamp_duplicate",
    "stamp_backward",
    "clock_step",
    "cdr_length",
    "jpeg_truncated",
    "encoding_unknown",
    "size_change",
]
BackendFaultKind = Literal[
    "backend_slow",
    "backend_hang",
    "backend_exception",
    "backend_segfault",
    "backend_nan",
    "backend_absurd",
]
Role = Literal["detector", "preprocess", "watchdog"]
Mode = Literal["NOMINAL", "DEGRADED", "SKIPPING", "UNSAFE"]
Milliseconds = Annotated[float, Field(gt=0, le=60_000)]


class ScenarioError(ValueError):
    """A scenario that cannot be used; one line that says why."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Fault(_Strict):
    """When a fault begins, in seconds after the first frame, and how long it lasts."""

    after_s: float = Field(default=2.5, ge=0.5, le=3600)
    for_s: float = Field(default=0.0, ge=0, le=3600)


class CameraFault(_Fault):
    """The camera misbehaves.

    Attributes:
        share: of the frames meanwhile, those that are hit.
        step_s: of `clock_step`: how far the camera's clock jumps.
        scale: of `size_change`: factor on width and height.
    """

    kind: CameraFaultKind
    share: float = Field(default=1.0, gt=0, le=1)
    step_s: float = Field(default=0.0, ge=-3600, le=3600)
    scale: float = Field(default=1.0, gt=0, le=8)


class BackendFault(_Fault):
    """Inference misbehaves; the graph runs `backends/faulty.py`.

    Attributes:
        factor: of `backend_slow`: on the time a call takes.
        inner: backend that it wraps.
        call_ms: what a call takes at least, in good health too.
    """

    kind: BackendFaultKind
    factor: float = Field(default=1.0, ge=1, le=1000)
    inner: str = "null"
    call_ms: float = Field(default=3.0, ge=0, le=1000)


class ProcessFault(_Fault):
    """The process of a role that works is killed, or stopped for good as a hang does."""

    kind: Literal["process_kill", "process_stop"]
    role: Role


class ShmFullFault(_Fault):
    """`/dev/shm` is full; tried in a private one of `size_mb`, which harms nobody else."""

    kind: Literal["shm_full"]
    size_mb: int = Field(default=512, ge=64, le=4096)


class CpuFault(_Fault):
    """So many processors are kept busy by others; 0 for all."""

    kind: Literal["cpu_contention"]
    cores: int = Field(default=0, ge=0, le=1024)


class SubscriberFault(_Fault):
    """A subscriber of all topics takes `delay_ms` for each message."""

    kind: Literal["slow_subscriber"]
    delay_ms: Milliseconds = 200.0


Fault = Annotated[
    CameraFault | BackendFault | ProcessFault | ShmFullFault | CpuFault | SubscriberFault,
    Field(discriminator="kind"),
]


class Expectation(_Strict):
    """What the graph must do. That every frame sent is accounted for is always expected.

    Attributes:
        cause: pattern of what health, its faults or a frame report must say; empty where the graph
            must take no notice.
        detected_within_ms: how soon after the fault's begin it must say so.
        told: the mode that the vehicle must be told at least.
        at_worst: the worst mode that it may be told; `told` by default.
        lost: what is lost, in words.
        lost_at_most: frames, from the fault on, that may give no detections.
        detections_within_ms: how soon after the fault's end a frame captured since has detections.
        recovered_within_ms: how soon after the fault's end the mode is NOMINAL for good.
    """

    cause: str = ""
    detected_within_ms: Milliseconds | None = None
    told: Mode = "NOMINAL"
    at_worst: Mode | None = None
    lost: str
    lost_at_most: int | None = Field(default=None, ge=0)
    detections_within_ms: Milliseconds = 250.0
    recovered_within_ms: Milliseconds = 1500.0

    @model_validator(mode="after")
    def _cause_has_a_time(self) -> "Expectation":
        if bool(self.cause) != (self.detected_within_ms is not None):
            raise ValueError("cause and detected_within_ms go together")
        return self


class Scenario(_Strict):
    """One fault and what is expected of the graph.

    Attributes:
        name: of the file.
        title: the fault in words.
        drive: what the camera plays, as the parameter `bag` of a player.
        graph: parameters of the graph that differ from their defaults.
        fault: what happens.
        expect: what must come of it.
    """

    name: str = Field(pattern="^[a-z][a-z0-9_]{0,40}$")
    title: str
    drive: str = "synthetic:1280x720@30*240"
    graph: dict[str, Any] = {}
    fault: Fault
    expect: Expectation

    @model_validator(mode="after")
    def _drop_is_seen_by_numbers(self) -> "Scenario":
        if self.fault.kind == "camera_drop" and self.graph.get("source") != "shm":
            # DDS numbers what is published; a frame lost before that was never sent.
            raise ValueError("camera_drop needs graph.source: shm, where the camera numbers frames")
        return self


def shipped() -> dict[str, Path]:
    """The scenarios that come with the package, by name."""
    folder = Path(str(importlib.resources.files("perception_nodes.hil"))) / "scenarios"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_scenario(name_or_file: str) -> Scenario:
    """Read a scenario by its name, or from a file of one's own.

    Raises:
        ScenarioError: not there, or not a scenario: which key, and why.
    """
    known = shipped()
    path = known.get(name_or_file, Path(name_or_file))
    if name_or_file not in known and path.suffix not in (".yaml", ".yml"):
        raise ScenarioError(
            f"scenario {name_or_file!r} is unknown; known are {', '.join(known)}, or a .yaml file"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ScenarioError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ScenarioError(f"{path} holds no keys")
    try:
        return Scenario.model_validate({"name": path.stem, **values})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "scenario"
        raise ScenarioError(f"{path}: {key}: {first['msg']}") from error
