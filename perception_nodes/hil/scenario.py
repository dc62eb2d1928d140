"""A scenario: a drive, a graph, faults, and what is expected of the graph; see `loading`."""

import re
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

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
    "calibration_wrong",
]
PictureFaultKind = Literal["night", "rain", "sun_glare", "lens_blocked"]
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


UNDISTURBED_S = 2.5
"""Where nothing happens, what a fault's begin and end would be."""


MOMENTARY = frozenset(
    {"backend_hang", "backend_segfault", "process_kill", "process_stop", "unit_reboot"}
)
"""Faults that happen at an instant; the others do nothing in no time."""


def wrong(reason: str, *key: str | int) -> PydanticCustomError:
    """An error of the value at `key`, for what a model can only see as a whole."""
    return PydanticCustomError("scenario", "{reason}", {"reason": reason, "key": key})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_yes_or_no(cls, values: Any) -> Any:
        """Of which a number would be made: in YAML `on` is one of them."""
        for key, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, bool):
                raise wrong(f"Input should not be {str(value).lower()}, yes or no", key)
        return values


class _Fault(_Strict):
    """When a fault begins, in seconds after the first frame, and how long it lasts."""

    after_s: float = Field(default=2.5, ge=0.5, le=3600)
    for_s: float = Field(default=0.0, ge=0, le=3600)

    @property
    def end_s(self) -> float:
        """When it ends."""
        return self.after_s + self.for_s

    @model_validator(mode="after")
    def _lasts(self) -> "_Fault":
        kind: str = getattr(self, "kind", "")
        if not self.for_s and kind not in MOMENTARY:
            raise wrong(f"{kind} lasts no time and does nothing; say for how long", "for_s")
        return self


class CameraFault(_Fault):
    """The camera misbehaves.

    Attributes:
        share: of the frames meanwhile, those that are hit.
        step_s: of `clock_step`: how far the camera's clock jumps.
        scale: of `size_change`: factor on width and height.
        distortion: of `calibration_wrong`: the first radial coefficient that CameraInfo tells, as
            of another lens.
    """

    kind: CameraFaultKind
    share: float = Field(default=1.0, gt=0, le=1)
    step_s: float = Field(default=0.0, ge=-3600, le=3600)
    scale: float = Field(default=1.0, gt=0, le=8)
    distortion: float = Field(default=-0.3, ge=-1, le=1)


class PictureFault(_Fault):
    """What the camera sees changes; see `weather`.

    Attributes:
        strength: 0 for not at all, 1 for as bad as it gets.
    """

    kind: PictureFaultKind
    strength: float = Field(default=0.5, gt=0, le=1)


class Conditions(_Strict):
    """A network, the same in both directions.

    Attributes:
        delay_ms: from one side to the other.
        loss: of the packets, those that are lost.
        reorder: of the packets, those that come `late_ms` later, behind those sent after them.
        late_ms: see `reorder`.
    """

    delay_ms: float = Field(default=0.0, ge=0, le=1000)
    loss: float = Field(default=0.0, ge=0, le=1)
    reorder: float = Field(default=0.0, ge=0, le=1)
    late_ms: float = Field(default=10.0, gt=0, le=1000)


class NetworkFault(_Fault, Conditions):
    """The network between camera and unit is another one meanwhile."""

    kind: Literal["network"]


class RebootFault(_Fault):
    """Every process of the unit is killed; after `for_s` they are started again."""

    kind: Literal["unit_reboot"]


class BackendFault(_Fault):
    """Inference misbehaves; the graph runs `hil/faulty_backend.py`.

    Attributes:
        factor: of `backend_slow`: on the time a call takes.
        inner: backend that it wraps.
        call_ms: what a call takes at least, in good health too.
    """

    kind: BackendFaultKind
    factor: float = Field(default=1.0, ge=1, le=1000)
    inner: Literal["openvino", "onnxruntime", "golden", "null"] = "null"
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
    CameraFault
    | PictureFault
    | NetworkFault
    | RebootFault
    | BackendFault
    | ProcessFault
    | ShmFullFault
    | CpuFault
    | SubscriberFault,
    Field(discriminator="kind"),
]


class Expectation(_Strict):
    """What the graph must do. That every frame sent is accounted for is always expected.

    What counts from the fault's begin or end counts, where there are several, from the first
    one's begin and the last one's end.

    Attributes:
        cause: pattern of what health, its faults or a frame report must say; empty where the graph
            must take no notice.
        detected_within_ms: how soon after the fault's begin it must say so.
        told: the mode that the vehicle must be told at least.
        told_within_ms: how soon after the fault's begin.
        at_worst: the worst mode that it may be told; `told` by default.
        lost: what is lost, in words.
        lost_at_most: frames, from the fault on, that may give no detections.
        detections_within_ms: how soon after the fault's end a frame captured since has detections.
        recovered_within_ms: how soon after the fault's end the mode is NOMINAL for good.
        miss_rate_at_most: of all frames, those without detections in time.
        agreement_at_least: with what the same model finds on the undisturbed drive, while the fault
            lasts (where there is none, all the time): of the objects that one of the two is sure
            of, those that both see. The accuracy floor.
        agreement_at_most: of a fault that must show.
        lost_on_the_way_at_most: frames reported as published whose detections the network lost.
    """

    cause: str = ""
    detected_within_ms: Milliseconds | None = None
    told: Mode = "NOMINAL"
    told_within_ms: Milliseconds | None = None
    at_worst: Mode | None = None
    lost: str
    lost_at_most: int | None = Field(default=None, ge=0)
    detections_within_ms: Milliseconds = 250.0
    recovered_within_ms: Milliseconds = 1500.0
    miss_rate_at_most: float | None = Field(default=None, ge=0, le=1)
    agreement_at_least: float | None = Field(default=None, ge=0, le=1)
    agreement_at_most: float | None = Field(default=None, ge=0, le=1)
    lost_on_the_way_at_most: int = Field(default=0, ge=0)

    @property
    def asks_for_agreement(self) -> bool:
        """Whether a reference has to be made."""
        return (self.agreement_at_least, self.agreement_at_most) != (None, None)

    @field_validator("cause")
    @classmethod
    def _is_a_pattern(cls, cause: str) -> str:
        try:
            re.compile(cause)
        except re.error as error:
            raise ValueError(f"{cause!r} is no pattern: {error}") from error
        return cause

    @model_validator(mode="after")
    def _cause_has_a_time(self) -> "Expectation":
        if bool(self.cause) != (self.detected_within_ms is not None):
            given = "cause" if self.cause else "detected_within_ms"
            raise wrong("cause and detected_within_ms go together", given)
        return self


class Scenario(_Strict):
    """Faults and what is expected of the graph.

    Attributes:
        name: of the file.
        title: the faults in words.
        drive: what the camera plays, as the parameter `bag` of a player.
        duration_s: the drive is cut, or played again and again, to be so long; 0 for as it is.
        jpeg_quality: images are sent as JPEG of this quality; 0 for as they are.
        cameras: of the vehicle, each with a graph of its own; the faults are the first one's.
        network: between the camera and the unit; without it both are on one machine.
        graph: parameters of the graph that differ from their defaults.
        faults: what happens; may be nothing.
        expect: what must come of it.
    """

    name: str = Field(pattern="^[a-z][a-z0-9_]{0,40}$")
    title: str
    drive: str = "synthetic:1280x720@30*240"
    duration_s: float = Field(default=0.0, ge=0, le=3600)
    jpeg_quality: int = Field(default=0, ge=0, le=100)
    cameras: int = Field(default=1, ge=1, le=2)
    network: Conditions | None = None
    graph: dict[str, Any] = {}
    faults: tuple[Fault, ...] = ()
    expect: Expectation

    @property
    def begin_s(self) -> float:
        """When the first fault begins, in seconds after the first frame."""
        return min((fault.after_s for fault in self.faults), default=UNDISTURBED_S)

    @property
    def end_s(self) -> float:
        """When the last fault ends."""
        return max((fault.end_s for fault in self.faults), default=UNDISTURBED_S)

    @model_validator(mode="after")
    def _drop_is_seen_by_numbers(self) -> "Scenario":
        for number, fault in enumerate(self.faults):
            if fault.kind == "camera_drop" and self.graph.get("source") != "shm":
                # DDS numbers what is published; a frame lost before that was never sent.
                raise wrong(
                    "camera_drop needs graph.source: shm, where the camera numbers frames",
                    *("faults", number, "kind"),
                )
        return self

    @model_validator(mode="after")
    def _network_fits(self) -> "Scenario":
        for number, fault in enumerate(self.faults):
            if self.network is None and fault.kind in ("network", "unit_reboot"):
                raise wrong(
                    f"{fault.kind} needs the key network: a unit of its own",
                    *("faults", number, "kind"),
                )
        if self.network is not None and self.graph.get("source") == "shm":
            raise wrong(
                "shared memory has no network: graph.source shm and network exclude",
                *("graph", "source"),
            )
        if self.network is not None and self.cameras > 1:
            raise wrong("cameras: 2 is for one machine, without network", "cameras")
        return self

    @model_validator(mode="after")
    def _one_at_a_time(self) -> "Scenario":
        """What is set for one fault and reset behind it cannot be set for two."""
        for one, two in combinations(range(len(self.faults)), 2):
            a, b = self.faults[one], self.faults[two]
            same = any(
                isinstance(a, kind) and isinstance(b, kind)
                for kind in (NetworkFault, BackendFault, RebootFault)
            )
            if same and a.after_s <= b.end_s and b.after_s <= a.end_s:
                raise wrong(
                    f"{b.kind} and {a.kind} (faults.{one}) overlap; they change the same thing",
                    *("faults", two),
                )
        return self
