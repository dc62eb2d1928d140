"""Parameters of the nodes: each with its default, range and description, in one place.

The nodes declare their ROS parameters from these classes, the launch files and the command line
their arguments; a value outside its range stops start-up with one line.
"""

from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.watchdog.faults import FaultLimits

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,30}$")]
ANY_CAMERA = "{camera}"
"""Stands for the camera's name in topics and file names."""
Topic = Annotated[
    str,
    Field(pattern=r"^[~/]?([A-Za-z_]|\{camera\})([A-Za-z0-9_/]|\{camera\})*$", max_length=200),
]
MAX_CAMERAS = 8


class SettingsError(ValueError):
    """A parameter whose value is not allowed; one line that names it, the value and the range.

    Attributes:
        parameter: its name, where it is one parameter's.
    """

    def __init__(self, text: str, parameter: str = "") -> None:
        """Keep both."""
        super().__init__(text)
        self.parameter = parameter


class Settings(BaseModel):
    """Parameters that every node of a graph shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    camera: Name = Field(
        default="front", description="name of the camera; keeps the graphs of several apart"
    )
    cpus: str = Field(
        default="",
        pattern=r"^(\d+(-\d+)?(,\d+(-\d+)?)*)?$",
        description="processors to run on, such as 2,3 or 2-5; empty for all",
    )
    fifo_priority: int = Field(
        default=0, ge=0, le=99, description="real-time priority (SCHED_FIFO); 0 for none"
    )
    lock_memory: bool = Field(default=False, description="keep all memory resident (mlockall)")
    use_sim_time: bool = Field(
        default=False,
        description="stamps are in the time of /clock, not of this machine; a player then keeps "
        "the recorded stamps and publishes /clock",
    )


S = TypeVar("S", bound=Settings)


def same(settings_type: type[Settings], name: str) -> Any:
    """A parameter that other nodes have too, for a field of any type, like `Field`."""
    return settings_type.model_fields[name]


class RedundantSettings(Settings):
    """Parameters of the nodes that a standby can take the place of, and of who watches them."""

    standby: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="keep a second preprocess and detector process ready; auto: where 2 GB of "
        "memory are available",
    )
    hang_after_ms: float = Field(
        default=40.0,
        ge=30,
        le=60_000,
        description="a process silent for so long hangs (a detector: four times a frame's "
        "inference, where that is longer)",
    )


class CamerasSettings(RedundantSettings):
    """Parameters of the nodes that serve all cameras of a graph."""

    cameras: str = Field(
        default="",
        pattern=r"^([a-z][a-z0-9_]{0,30}(,[a-z][a-z0-9_]{0,30})*)?$",
        description="several cameras that share one detector, such as front,left,right: each has a "
        "preprocess process and topics of its own, /perception/front/detections; empty for one",
    )

    @model_validator(mode="after")
    def _cameras_differ(self) -> "CamerasSettings":
        names = self.served
        if len(set(names)) < len(names) or len(names) > MAX_CAMERAS:
            raise ValueError(
                f"cameras: {self.cameras!r} is not allowed, it must be up to {MAX_CAMERAS} names "
                "that differ"
            )
        return self

    @property
    def served(self) -> tuple[str, ...]:
        """Names of the cameras, one where there are not several."""
        return tuple(self.cameras.split(",")) if self.cameras else (self.camera,)

    def topic(self, topic: str, camera: str) -> str:
        """One of the cameras' own topic."""
        return camera_topic(topic, camera, bool(self.cameras))


class PreprocessSettings(RedundantSettings):
    """Parameters of preprocess_node."""

    source: Literal["dds", "shm"] = Field(
        default="dds", description="where frames come from: a ROS topic, or shared memory"
    )
    image_topic: Topic = Field(
        default="/camera/image_raw",
        description="sensor_msgs/Image; with image_transport=compressed its /compressed sibling; "
        "{camera} in it stands for the camera's name",
    )
    image_transport: Literal["raw", "compressed"] = Field(
        default="raw", description="Image, or CompressedImage (JPEG, PNG)"
    )
    model: str = Field(
        default="road-n", description="model whose input size frames are scaled to: name or folder"
    )
    preprocess_on: Literal["cpu", "gpu"] = Field(
        default="cpu",
        description="where frames are scaled and rectified: on the cpu, into shared memory; or on "
        "the gpu, which reads them where the camera left them (backend:=tensorrt, source:=shm)",
    )
    undistort: bool = Field(
        default=True, description="remove lens distortion where CameraInfo tells of one"
    )
    calibration_file: str = Field(
        default="",
        description="camera_info YAML for a camera that publishes no CameraInfo; {camera} in it "
        "stands for the camera's name",
    )
    deadline_ms: float = Field(
        default=DEADLINE_MS, ge=0.1, le=10_000, description="deadline from capture to publish"
    )

    @model_validator(mode="after")
    def _pixels_to_read_in_place(self) -> "PreprocessSettings":
        if self.preprocess_on == "gpu":
            for name, needed in (("source", "shm"), ("image_transport", "raw")):
                if getattr(self, name) != needed:
                    raise ValueError(
                        f"preprocess_on: 'gpu' is not allowed with {name}:={getattr(self, name)}, "
                        f"it needs {name}:={needed}"
                    )
        return self


class DetectorSettings(CamerasSettings):
    """Parameters of detector_node."""

    model: str = Field(default="road-n", description="model to run: name or folder")
    backend: Literal["openvino", "onnxruntime", "tensorrt", "fpga", "golden", "null"] = Field(
        default="openvino",
        description="inference runtime; for tensorrt an engine is built at the first start, "
        "and openvino stands in meanwhile; fpga is the engine that $PERCEPTION_FPGA names, see "
        "docs/fpga.md; golden is the slow integer reference, null finds nothing, for measurements",
    )
    preprocess_on: Literal["cpu", "gpu"] = same(PreprocessSettings, "preprocess_on")
    threads: int = Field(
        default=0, ge=0, le=256, description="inference threads; 0 for one a physical core"
    )
    score_threshold: float = Field(
        default=DecodeSettings.score_threshold,
        ge=0.01,
        le=0.99,
        description="objects below it are not reported",
    )
    iou_threshold: float = Field(
        default=DecodeSettings.iou_threshold,
        ge=0.1,
        le=0.99,
        description="overlap above which one class's weaker box goes",
    )
    fallback_model: str = Field(
        default="",
        description="smaller model of the same input and classes, for frames that the model would "
        "be late with; empty for none",
    )
    skip_late: bool = Field(
        default=True,
        description="abandon, before inference, a frame that no model would be in time with",
    )
    publish_late: bool = Field(
        default=True, description="publish detections that are late all the same, marked late"
    )
    detections_topic: Topic = Field(
        default="/perception/detections", description="vision_msgs/Detection2DArray"
    )

    @model_validator(mode="after")
    def _backend_preprocesses(self) -> "DetectorSettings":
        if self.preprocess_on == "gpu" and self.backend != "tensorrt":
            raise ValueError(
                f"preprocess_on: 'gpu' is not allowed with backend:={self.backend}, it needs "
                "backend:=tensorrt"
            )
        return self


class WatchdogSettings(CamerasSettings):
    """Parameters of watchdog_node."""

    deadline_ms: float = same(PreprocessSettings, "deadline_ms")
    outcome_timeout_ms: float = Field(
        default=1000.0,
        ge=10,
        le=60_000,
        description="a frame without an outcome for so long is accounted for as FAILED",
    )
    no_frame_ms: float = Field(
        default=FaultLimits.no_frame_ms,
        ge=20,
        le=60_000,
        description="a camera silent for so long is gone: UNSAFE",
    )
    frozen_frames: int = Field(
        default=FaultLimits.frozen_frames,
        ge=0,
        le=1000,
        description="so many frames of the same pixels are a frozen picture: UNSAFE; 0 for never",
    )
    hardware_watchdog: str = Field(
        default="", description="device to keep fed, such as /dev/watchdog; empty for none"
    )
    unsafe_after_ms: float = Field(
        default=500.0, ge=50, le=60_000, description="without detections for so long: UNSAFE"
    )
    degraded_miss_rate: float = Field(
        default=0.1, ge=0, le=1, description="share of missed deadlines above which: DEGRADED"
    )

    @model_validator(mode="after")
    def _timeout_beyond_deadline(self) -> "WatchdogSettings":
        if self.outcome_timeout_ms <= self.deadline_ms:
            raise ValueError(
                f"outcome_timeout_ms: {self.outcome_timeout_ms:g} is not allowed, it must be more "
                f"than deadline_ms ({self.deadline_ms:g})"
            )
        return self


class PlayerSettings(Settings):
    """Parameters of player_node."""

    bag: str = Field(
        default="",
        description="recorded drive: ROS 2 bag folder, .mcap, .db3, .bag; or a made-up one, "
        "synthetic:WIDTHxHEIGHT@RATE*FRAMES",
    )
    topic: str = Field(default="", description="image topic in the bag; empty: found by type")
    rate: float = Field(default=1.0, ge=0.01, le=100, description="speed of playing")
    source: Literal["dds", "shm"] = same(PreprocessSettings, "source")
    image_topic: Topic = same(PreprocessSettings, "image_topic")
    ready_timeout_s: float = Field(
        default=60.0, ge=1, le=3600, description="how long to wait for a working detector"
    )
    accounted: bool = Field(
        default=True,
        description="play to a graph with a watchdog: wait until it is ready, and "
        "in the end until every frame is accounted for",
    )
    listeners: int = Field(
        default=0, ge=0, le=100, description="subscribers of the detections to wait for"
    )
    detections_topic: Topic = same(DetectorSettings, "detections_topic")
    sent_file: str = Field(
        default="", description="JSON file that receives the stamps of the frames played"
    )


class MonitorSettings(Settings):
    """Parameters of monitor_node."""

    detections_topic: Topic = same(DetectorSettings, "detections_topic")
    deadline_ms: float = same(PreprocessSettings, "deadline_ms")
    recording: str = Field(default="", description="mcap file that receives the outputs")
    frames: int = Field(default=0, ge=0, description="frames expected, for the progress bar")
    live: bool = Field(default=True, description="show the live view")


def camera_topic(topic: str, camera: str, several: bool) -> str:
    """A camera's own topic.

    Args:
        topic: with `{camera}`, or the one that a single camera has.
        camera: its name.
        several: there are others: the name comes before the last part where it has no other place.
    """
    if ANY_CAMERA in topic:
        return topic.replace(ANY_CAMERA, camera)
    if not several:
        return topic
    base, separator, last = topic.rpartition("/")
    return f"{base}{separator}{camera}/{last}"


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
            text = str(first.get("ctx", {}).get("error", first["msg"]))
            raise SettingsError(f"parameter {text}", text.partition(":")[0]) from error
        name = str(first["loc"][0])
        if name not in settings_type.model_fields:
            known = ", ".join(settings_type.model_fields)
            raise SettingsError(
                f"parameter {name!r} is unknown; known are {known}", name
            ) from error
        allowed = allowed_range(settings_type.model_fields[name])
        raise SettingsError(
            f"parameter {name}: {first['input']!r} is not allowed, it must be {allowed}", name
        ) from error


def allowed_range(field: FieldInfo) -> str:
    """The values a parameter may have, in words."""
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
    patterns = [item.pattern for item in field.metadata if getattr(item, "pattern", None)]
    return f"{kind} that matches {patterns[0]}" if patterns else kind


def numeric_range(field: FieldInfo) -> tuple[float | None, float | None]:
    """Lowest and highest value of a number."""
    low = next((item.ge for item in field.metadata if hasattr(item, "ge")), None)
    high = next((item.le for item in field.metadata if hasattr(item, "le")), None)
    return low, high


def choices(field: FieldInfo) -> list[str] | None:
    """The values of a parameter that has a list of them."""
    if get_origin(field.annotation) is Literal:
        return [str(choice) for choice in get_args(field.annotation)]
    return None
