"""A scenario: a drive, a graph, faults, and what is expected of the graph. `loading` reads them."""

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
"""Begin and end of the judged time in a scenario without faults; no graph works sooner."""


MOMENTARY = frozenset(
    {"backend_hang", "backend_segfault", "process_kill", "process_stop", "unit_reboot"}
)
"""Faults that happen at an instant. The others need a duration to have an effect."""
OWN_KEYS: dict[str, tuple[str, float | None]] = {
    "clock_step": ("step_s", 0.0),
    "size_change": ("scale", 1.0),
    "calibration_wrong": ("distortion", None),
    "backend_slow": ("factor", 1.0),
}
"""Keys that only one kind of fault uses, by the fault: the key, and its value without effect."""


def wrong(reason: str, *key: str | int) -> PydanticCustomError:
    """Make a validation error at one key of a model, for a rule about several values."""
    return PydanticCustomError("scenario", "{reason}", {"reason": reason, "key": key})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans(cls, values: Any) -> Any:
        """Refuse booleans, which pydantic takes for numbers; in YAML, `on` is one."""
        for key, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, bool):
                raise wrong(f"it must not be {str(value).lower()}, yes or no", key)
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
    def _has_an_effect(self) -> "_Fault":
        kind: str = getattr(self, "kind", "")
        if not self.for_s and kind not in MOMENTARY:
            raise wrong(f"{kind} needs a duration, without which it does nothing", "for_s")
        key, nothing = OWN_KEYS.get(kind, ("", None))
        if nothing is not None and getattr(self, key) == nothing:
            raise wrong(f"{kind} with {key}: {nothing:g} changes nothing; give another {key}", key)
        return self


class CameraFault(_Fault):
    """The camera misbehaves.

    Attributes:
        share: of the frames during the fault, the share that is hit.
        step_s: for `clock_step`: how far the camera's clock jumps; not 0.
        scale: for `size_change`: factor on width and height; not 1.
        distortion: for `calibration_wrong`: the first radial coefficient in CameraInfo, which is
            that of another lens.
    """

    kind: CameraFaultKind
    share: float = Field(default=1.0, gt=0, le=1)
    step_s: float = Field(default=0.0, ge=-3600, le=3600)
    scale: float = Field(default=1.0, gt=0, le=8)
    distortion: float = Field(default=-0.3, ge=-1, le=1)


class PictureFault(_Fault):
    """What the camera sees changes; see `weather`.

    Attributes:
        strength: from 0 (no effect) to 1 (strongest).
    """

    kind: PictureFaultKind
    strength: float = Field(default=0.5, gt=0, le=1)


class NetworkConditions(_Strict):
    """A network, the same in both directions.

    Attributes:
        delay_ms: of each packet.
        loss: share of the packets that are lost.
        reorder: share of the packets that are delayed by another `late_ms`, and overtaken.
        late_ms: see `reorder`.
    """

    delay_ms: float = Field(default=0.0, ge=0, le=1000)
    loss: float = Field(default=0.0, ge=0, le=1)
    reorder: float = Field(default=0.0, ge=0, le=1)
    late_ms: float = Field(default=10.0, gt=0, le=1000)

    def felt(self) -> tuple[float, ...]:
        """The conditions that packets meet: without `reorder`, `late_ms` has no effect."""
        return self.delay_ms, self.loss, self.reorder, self.reorder and self.late_ms


class NetworkFault(_Fault, NetworkConditions):
    """The network between camera and unit has other conditions during the fault than before."""

    kind: Literal["network"]


class RebootFault(_Fault):
    """All processes of the unit are killed, and started again after `for_s`."""

    kind: Literal["unit_reboot"]


class BackendFault(_Fault):
    """Inference misbehaves; the detector runs `faults/faulty_backend.py`.

    Attributes:
        factor: for `backend_slow`: multiplies the duration of a call; more than 1.
        inner: the backend that does the work.
        call_ms: minimum duration of a call, also outside the fault.
    """

    kind: BackendFaultKind
    factor: float = Field(default=1.0, ge=1, le=1000)
    inner: Literal["openvino", "onnxruntime", "golden", "null"] = "null"
    call_ms: float = Field(default=3.0, ge=0, le=1000)


class ProcessFault(_Fault):
    """The working process of a role is killed, or stopped for good, which looks like a hang."""

    kind: Literal["process_kill", "process_stop"]
    role: Role


class ShmFullFault(_Fault):
    """A private `/dev/shm` of `size_mb` is full, so that no other program is harmed."""

    kind: Literal["shm_full"]
    size_mb: int = Field(default=512, ge=64, le=4096)


class CpuFault(_Fault):
    """Other processes keep this number of processors busy; 0 for all of them."""

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
    """What the graph must do. That every frame is accounted for is always expected.

    With several faults, the begin is that of the first one and the end is that of the last one.
    Without faults, both are the time at which the graph first works.

    Attributes:
        cause: regular expression that the cause or a fault in a health message, or the reason of a
            frame report, must match; empty if the graph is not expected to report anything.
        detected_within_ms: how soon after the begin of the fault `cause` must be reported.
        told: the health mode that must be reached, or a worse one; before the end of a fault that
            lasts.
        told_within_ms: how soon after the begin of the fault.
        at_worst: the worst mode allowed; `told` by default.
        lost: what is lost, in words.
        lost_at_most: how many frames may have no detections from the fault on. One more may, if it
            is late only by the machine's own tail.
        detections_within_ms: how soon after the end of the fault a frame captured since must have
            detections.
        recovered_within_ms: how soon after the end of the fault the mode must be NOMINAL and stay
            so.
        miss_rate_at_most: share of all frames that may have no detections in time.
        agreement_at_least: the accuracy floor, while the fault lasts (without a fault, always): of
            the objects that the same model is sure of here or on the undisturbed drive, the share
            that it detects in both.
        agreement_at_most: the same as a ceiling, for a fault that must have an effect.
        lost_on_the_way_at_most: how many frames reported as published may have lost their
            detections in the network.
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
        """Whether detections on the undisturbed drive are needed."""
        return (self.agreement_at_least, self.agreement_at_most) != (None, None)

    @field_validator("cause")
    @classmethod
    def _is_a_regular_expression(cls, cause: str) -> str:
        try:
            re.compile(cause)
        except re.error as error:
            raise ValueError(f"{cause!r} is not a regular expression: {error}") from error
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
        name: of the file, without its suffix.
        title: the faults in words.
        drive: what the camera plays, as the parameter `bag` of a player.
        duration_s: length to which the drive is cut or repeated; 0 leaves it as it is.
        jpeg_quality: JPEG quality of the images that are sent; 0 leaves them as they are.
        cameras: of the vehicle, each with a graph of its own; the first one has the faults.
        network: network between camera and unit; without it both are on one machine.
        graph: parameters of the graph that differ from their defaults.
        faults: what happens; may be empty.
        expect: what the graph must do.
    """

    name: str = Field(pattern="^[a-z][a-z0-9_]{0,40}$")
    title: str
    drive: str = "synthetic:1280x720@30*240"
    duration_s: float = Field(default=0.0, ge=0, le=3600)
    jpeg_quality: int = Field(default=0, ge=0, le=100)
    cameras: int = Field(default=1, ge=1, le=2)
    network: NetworkConditions | None = None
    graph: dict[str, Any] = {}
    faults: tuple[Fault, ...] = ()
    expect: Expectation

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of its recordings and logs: one for each camera."""
        return (self.name, f"{self.name}_second")[: self.cameras]

    @model_validator(mode="after")
    def _graph_and_network_fit(self) -> "Scenario":
        before = self.network and self.network.felt()
        for number, fault in enumerate(self.faults):
            kind = "faults", number, "kind"
            if fault.kind == "camera_drop" and self.graph.get("source") != "shm":
                # DDS numbers frames on publishing: one that is dropped before would leave no gap.
                reason = "camera_drop needs graph.source: shm, where the camera numbers the frames"
                raise wrong(reason, *kind)
            if self.network is None and fault.kind in ("network", "unit_reboot"):
                raise wrong(f"{fault.kind} needs the key network: a unit of its own", *kind)
            if isinstance(fault, NetworkFault) and fault.felt() == before:
                raise wrong(
                    f"network with delay_ms: {fault.delay_ms:g}, loss: {fault.loss:g} and reorder: "
                    f"{fault.reorder:g} changes nothing, the network is like that before; give "
                    "other values",
                    *("faults", number),
                )
        if self.network is not None and self.graph.get("source") == "shm":
            raise wrong(
                "shared memory has no network: graph.source shm excludes the key network",
                *("graph", "source"),
            )
        if self.network is not None and self.cameras > 1:
            raise wrong("cameras: 2 is for one machine, without network", "cameras")
        return self

    @model_validator(mode="after")
    def _no_conflict(self) -> "Scenario":
        """Refuse two faults that set the same thing at one time: each would reset it at its end."""
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
