"""Parameters of the nodes: each with its default, range and description, in one place.

The nodes declare their ROS parameters from these classes; the launch files and the command line
declare their arguments from them.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from perception_nodes.cameras.camera_source import CameraSource
from perception_nodes.cameras.source_for import is_file, source_for
from perception_nodes.cameras.v4l2_devices import V4l2Settings
from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import FRAME_ID_BYTES, MAX_LOOKS
from perception_nodes.graph.settings import Described, Name, Source, Topic, changeable, same
from perception_nodes.graph.topics import ANY_CAMERA, SAFE_STOP, camera_topic
from perception_nodes.system.realtime import MAX_PRIORITY
from perception_nodes.tracking.tracks import TrackingSettings
from perception_nodes.watchdog.faults import FaultLimits

DEFAULT_CAMERA = "front"
"""A graph of this camera alone has topics and nodes without the camera's name."""
Runtime = Literal[
    "auto", "openvino", "onnxruntime", "tensorrt", "cuda", "fpga", "litert", "golden", "null"
]
OF_ONE_CAMERA = ("image_topic", "calibration_file", "source")
"""Parameters in which `{camera}` is the camera of the node itself."""
MAX_CAMERAS = 8
ON_CPU = ("auto", "openvino", "onnxruntime", "litert")
"""Runtimes whose times depend on the processor, on their version and on a delegate alone."""
AUTO_THREADS = -1


def _as_number(threads: object) -> object:
    return AUTO_THREADS if threads == "auto" else threads


def _as_text(looks: object) -> str:
    return "off" if looks is False else str(looks)  # YAML takes off for a truth value


Looks = Annotated[Literal["off", "auto", "1", "2", "3"], BeforeValidator(_as_text)]


class Settings(Described):
    """Parameters that every node of a graph shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    camera: Name = DEFAULT_CAMERA
    """name of the camera; every other name than the default appears in the names of nodes and
    topics, so that several graphs can run side by side"""
    cpus: str = Field(default="", pattern=r"^(\d+(-\d+)?(,\d+(-\d+)?)*)?$")
    """processors to run on, such as 2,3 or 2-5; empty: all processors"""
    fifo_priority: int = Field(default=-1, ge=-1, le=MAX_PRIORITY)
    """real-time priority (SCHED_FIFO) of the detector; the watchdog's is 1 more, that of
    preprocessing 2, that of a camera 3, that of the tracker 1 less; -1: as much as the system
    allows, up to 40; 0: no real time"""
    lock_memory: bool = False
    """keep all memory of the process resident (mlockall)"""
    use_sim_time: bool = False
    """image stamps are in the time of /clock instead of the system clock; a played drive then keeps
    its recorded stamps and publishes /clock"""

    autostart: bool = True
    """the nodes configure and activate themselves; false: a life-cycle manager does it"""
    remote_changes: Literal["allow", "refuse"] = "allow"
    """whether other processes may change parameters and life-cycle states of running nodes by
    services; refuse: every such call fails"""

    @model_validator(mode="before")
    @classmethod
    def _name_camera(cls, values: dict[str, Any]) -> dict[str, Any]:
        camera = str(values.get("camera", DEFAULT_CAMERA))
        return {
            name: str(value).replace(ANY_CAMERA, camera) if name in OF_ONE_CAMERA else value
            for name, value in values.items()
        }

    @model_validator(mode="after")
    def _no_contradiction(self) -> "Settings":
        if problem := next(self.contradictions(), ""):
            raise ValueError(problem)
        return self

    def contradictions(self) -> Iterator[str]:
        """What is wrong with values that are allowed each: begins with a parameter's name."""
        if self.remote_changes == "refuse" and not self.autostart:
            why = "since a life-cycle manager could not start the nodes"
            yield f"remote_changes: 'refuse' is not allowed with autostart:=false, {why}"
        for camera in (name for name in self.served if name.endswith("standby")):
            why = "its nodes would have the names of another camera's standbys"
            yield f"camera: {camera!r} is not allowed, {why}; choose a name with another end"

    @property
    def served(self) -> tuple[str, ...]:
        """Names of all cameras that the node works for."""
        return (self.camera,)

    @property
    def topics_named(self) -> bool:
        """Whether each camera's name is part of its topics."""
        return bool(getattr(self, "cameras", "")) or self.camera != DEFAULT_CAMERA

    def topic_of(self, topic: str, camera: str = "") -> str:
        """The topic of a camera, by default of `camera`; see `camera_topic`."""
        return camera_topic(topic, camera or self.camera, self.topics_named)


class RedundantSettings(Settings):
    """Parameters of the nodes that can have a standby, and of the watchdog."""

    standby: Literal["auto", "always", "never"] = "auto"
    """keep a second preprocess and a second detector process ready to take over; auto: only if 2 GB
    of memory are available, and never with backend fpga or $PERCEPTION_DELEGATE, which a single
    process can use"""
    hang_after_ms: float = Field(default=40.0, ge=30, le=60_000)
    """a process that has given no sign of life for this long counts as hung; for a detector at
    least four times the duration of an inference"""


class CamerasSettings(RedundantSettings):
    """Parameters of the nodes that serve all cameras of a graph."""

    cameras: str = Field(default="", pattern=r"^([a-z][a-z0-9_]{0,30}(,[a-z][a-z0-9_]{0,30})*)?$")
    """names of several cameras that share one detector, such as front,left,right; each has its own
    preprocess process and its own topics, such as perception/left/detections; empty: one camera,
    named by the parameter camera"""

    def contradictions(self) -> Iterator[str]:
        """See `Settings`."""
        yield from super().contradictions()
        if len(set(self.served)) < len(self.served) or len(self.served) > MAX_CAMERAS:
            allowed = f"it must be up to {MAX_CAMERAS} names that differ"
            yield f"cameras: {self.cameras!r} is not allowed, {allowed}"

    @property
    def served(self) -> tuple[str, ...]:
        """Names of all cameras that the node works for."""
        return tuple(self.cameras.split(",")) if self.cameras else super().served

    @property
    def safe_stop_topic(self) -> str:
        """Topic of the safe-stop request, one for all cameras of the graph."""
        return camera_topic(SAFE_STOP, self.camera, self.topics_named and not self.cameras)


class PreprocessSettings(RedundantSettings):
    """Parameters of preprocess_node."""

    source: Source = "dds"
    """where frames come from: dds, a ROS topic; shm, a shared-memory channel that another process
    fills; or a camera, stream or video file that the graph opens itself; {camera} stands for the
    camera's name"""
    image_topic: Topic = "camera/image_raw"
    """topic of the images; with another image_transport than raw, its name is appended, as in
    /compressed; {camera} stands for the camera's name; for a camera of another name than the
    default's, the default is camera/{camera}/image_raw"""
    image_transport: Literal["raw", "compressed", "foxglove", "ffmpeg"] = "raw"
    """type of the images: raw, sensor_msgs/Image; compressed, sensor_msgs/CompressedImage (JPEG or
    PNG); foxglove, foxglove_msgs/CompressedVideo, and ffmpeg,
    ffmpeg_image_transport_msgs/FFMPEGPacket (H.264 or H.265 without B-frames)"""
    model: str = "open-n"
    """name or folder of the model that detects objects; auto, for perception run, demo and launch
    files, and what they take where it is not named: the most accurate road model that keeps the
    deadline on this machine, and the backend and threads that it is fastest with, measured in five
    seconds at the first start"""
    model_key: str = ""
    """file of a public key; a model that its owner has not signed (perception model sign) is
    refused; empty: models need no signature"""
    preprocess_on: Literal["cpu", "gpu"] = "cpu"
    """what scales and undistorts frames: the cpu, which writes the result into shared memory; or
    the gpu, which reads frames directly from the camera's shared memory and needs backend:=tensorrt
    or cuda, and a source other than dds"""
    images_over: Literal["shm", "udp"] = "shm"
    """how images of a ROS topic come from publishers of this machine: shm, through shared memory of
    Fast DDS, best where the camera has our profile too (docs/ros-cameras.md); udp, through the
    loopback device, which may be sooner for a reliable camera with Fast DDS's default settings"""
    undistort: bool = True
    """remove the lens distortion that CameraInfo describes"""
    sample_bits: int = Field(default=0, ge=0, le=16)
    """how many bits of a sample are significant where the images have 16 bits a sample (mono16,
    bayer_rggb16, ...); 0: the fewest of 10, 12, 14 and 16 that the brightest frames so far need"""
    calibration_file: str = ""
    """camera_info YAML file, in place of the CameraInfo topic; {camera} stands for the camera's
    name; empty: none"""
    deadline_ms: float = Field(default=DEADLINE_MS, ge=0.1, le=10_000)
    """deadline of a frame, from its capture to the publication of its detections"""
    no_frame_ms: float = Field(default=FaultLimits.no_frame_ms, ge=20, le=60_000)
    """if no frame arrives from a camera for this long, health is UNSAFE"""
    second_look: Looks = "off"
    """look again at parts of each frame in the resolution of the camera, while the deadline leaves
    time for it (docs/second-look.md): auto, up to three times; or at most so many times; needs
    frames that are scaled on the CPU"""

    def contradictions(self) -> Iterator[str]:
        """See `Settings`."""
        yield from super().contradictions()
        refused = "preprocess_on: 'gpu' is not allowed with"
        if self.preprocess_on == "gpu" and self.source == "dds":
            yield f"{refused} source:=dds, it needs source:=shm"
        if self.preprocess_on == "gpu" and self.image_transport != "raw":
            transport = f"image_transport:={self.image_transport}"
            yield f"{refused} {transport}, it needs image_transport:=raw"


def _in_room(frame_id: str) -> str:
    if len(frame_id.encode()) > FRAME_ID_BYTES:
        raise ValueError(f"it must have at most {FRAME_ID_BYTES} bytes")
    return frame_id


class CameraSettings(Settings):
    """Parameters of camera_node, which opens a camera and fills its shared-memory channel."""

    cameras: str = same(CamerasSettings, "cameras")
    source: Source = same(PreprocessSettings, "source")
    frame_id: Annotated[str, AfterValidator(_in_room)] = ""
    """frame_id of the camera's images; empty: the camera's name"""
    frame_size: str = Field(
        default="", pattern=r"^([1-9]\d{0,4}x[1-9]\d{0,4})?$", examples=["1280x720"]
    )
    """size of a v4l2 camera's frames; empty: the camera's choice"""
    frame_rate: float = Field(default=0.0, ge=0, le=1000)
    """frames a second of a v4l2 camera; 0: its choice"""
    pixel_format: str = Field(default="", pattern=r"^([ -~]{4})?$", examples=["NV12"])
    """pixel format of a v4l2 camera, in the kernel's letters; empty: what is best"""
    camera_input: int = Field(default=-1, ge=-1, le=63)
    """number of a v4l2 device's input, such as one of several HDMI inputs; -1: as it is"""
    controls: str = changeable(
        default="",
        pattern=r"^([a-z0-9_]+=-?\d{1,9}(,[a-z0-9_]+=-?\d{1,9})*)?$",
        max_length=1000,
        examples=["gain=20,exposure_time_absolute=100"],
    )
    """controls of a v4l2 camera by their names in perception camera --list, in its units; what
    would set them automatically is turned off"""
    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    """what the packets of an RTSP camera come by; over udp a lost one delays no other"""
    loop: bool = False
    """begin a video file anew at its end"""
    wait_for_camera: bool = False
    """wait for a camera that is not there at the start, instead of ending the graph"""

    @property
    def plays_file_once(self) -> bool:
        """Whether the source is a file that has an end."""
        return is_file(self.source) and not self.loop

    def open_source(self) -> CameraSource:
        """The source that these parameters describe; nothing is opened yet.

        Raises:
            CameraError: it is of no known form, a file is missing, or an option is not for it.
        """
        width, _, height = self.frame_size.partition("x")
        wanted = V4l2Settings(
            width=int(width or 0),
            height=int(height or 0),
            rate_hz=self.frame_rate,
            pixel_format=self.pixel_format,
            input=self.camera_input,
            controls=self.controls,
        )
        return source_for(self.source, wanted, loop=self.loop, rtsp_transport=self.rtsp_transport)


class RepublishSettings(Settings):
    """Parameters of republish_node, which publishes frames of shared memory over DDS."""

    image_topic: Topic = same(PreprocessSettings, "image_topic")
    calibration_file: str = same(PreprocessSettings, "calibration_file")
    sample_bits: int = same(PreprocessSettings, "sample_bits")
    deadline_ms: float = same(PreprocessSettings, "deadline_ms")
    republish: bool = True
    """publish frames that come through shared memory on image_topic, too, while somebody
    subscribes: Image, CompressedImage and, with calibration_file, CameraInfo"""


class DetectorSettings(CamerasSettings):
    """Parameters of detector_node."""

    model: str = same(PreprocessSettings, "model")
    model_key: str = same(PreprocessSettings, "model_key")
    backend: Runtime = "auto"
    """inference runtime; auto: on the CPU, openvino, and litert for integer networks, with
    depthwise layers only where it has a delegate; tensorrt builds its engine at the first
    start, and auto detects until it is built; cuda runs our own kernels on an NVIDIA GPU
    (docs/cuda.md); fpga uses the device that $PERCEPTION_FPGA names (docs/fpga.md), litert the
    delegate that $PERCEPTION_DELEGATE names (docs/tpu.md); golden is the slow integer
    reference; null detects nothing and is for measurements"""
    preprocess_on: Literal["cpu", "gpu"] = same(PreprocessSettings, "preprocess_on")
    second_look: Looks = same(PreprocessSettings, "second_look")
    second_look_until_ms: float = Field(default=0.0, ge=0, le=10_000)
    """time from the capture of a frame until which its detections may be delayed by further looks;
    0: 0.7 of the deadline"""
    threads: Annotated[int, BeforeValidator(_as_number)] = Field(default=0, ge=AUTO_THREADS, le=256)
    """inference threads; 0: one per physical core, or with model:=auto what was measured as best;
    -1 or auto, for perception run and launch files: as many as are the fastest beside other work on
    this machine, measured at the first start"""
    stay_awake: Literal["auto", "always", "never"] = "auto"
    """keep the processors of the graph from sleeping between frames, since they take long to wake;
    auto: where the graph has real-time priority, without which it is of no use; costs power and
    heat as if they were busy"""
    enabled: bool = changeable(default=True)
    """detect; false: every frame is FAILED with that reason, and the vehicle is asked to stop"""
    classes: str = changeable(default="", max_length=1000, examples=["car,person"])
    """names of the classes to report, such as car,person; empty: all that the model knows"""
    score_threshold: float = changeable(default=DecodeSettings.score_threshold, ge=0.01, le=0.99)
    """objects with a lower score are not reported"""
    class_thresholds: str = changeable(
        default="",
        max_length=1000,
        pattern=r"^([^,:;]+: *0?\.\d+ *(,|$))*$",
        examples=["person:0.6,car:0.4"],
    )
    """the same for some classes, such as person:0.6,car:0.4, above score_threshold; of
    boxes that overlap, only the best one gets so far"""
    iou_threshold: float = changeable(default=DecodeSettings.iou_threshold, ge=0.1, le=0.99)
    """of two boxes of one class that overlap more than this (intersection over union), only the one
    with the higher score is reported"""
    across_classes: bool = changeable(default=False)
    """do so with two boxes of any classes: what is a bus is then not reported as a car too"""
    fallback_model: str = "auto"
    """name or folder of a faster model with the same input and classes, used for frames that would
    miss the deadline with the main model; auto: on the CPU, the one that model.yaml names; none: no
    such model"""
    skip_late: bool = True
    """skip inference for a frame that would miss its deadline with every model; if not, the fastest
    model runs on it"""
    publish_late: bool = True
    """publish detections that missed the deadline too, marked as late; if not, those that
    publication would probably make late are withheld as well"""
    detections_topic: Topic = "perception/detections"
    """topic of the detections (vision_msgs/Detection2DArray); {camera} stands for the camera's
    name"""

    def faster_model(self, named: str | None) -> str:
        """The model to load beside one whose model.yaml names a fallback; empty for none."""
        if self.fallback_model == "auto":
            return named or "" if self.backend in ON_CPU else ""
        return "" if self.fallback_model == "none" else self.fallback_model

    def contradictions(self) -> Iterator[str]:
        """See `Settings`."""
        yield from super().contradictions()
        if self.preprocess_on == "gpu" and self.backend not in ("tensorrt", "cuda"):
            refused = f"preprocess_on: 'gpu' is not allowed with backend:={self.backend}"
            yield f"{refused}, it needs backend:=tensorrt or backend:=cuda"


def most_looks(settings: PreprocessSettings | DetectorSettings) -> int:
    """Second looks at a frame, at most; none with the FPGA or where a GPU scales the frames."""
    if settings.preprocess_on == "gpu" or getattr(settings, "backend", "") == "fpga":
        return 0
    return {"off": 0, "auto": MAX_LOOKS, "1": 1, "2": 2, "3": 3}[settings.second_look]


class TrackerSettings(CamerasSettings):
    """Parameters of tracker_node, which follows the objects from frame to frame."""

    model: str = same(PreprocessSettings, "model")
    model_key: str = same(PreprocessSettings, "model_key")
    tracks: bool = False
    """follow the objects: perception/tracks has their identities and velocities, and
    perception/tracked_detections each frame's detections with the identities"""
    tracks_time: Literal["publish", "capture"] = changeable(default="publish")
    """for which time tracks are stated: for that of their publication, or for that of the frame"""
    tracks_ahead_ms: float = changeable(default=0.0, ge=0, le=1000)
    """how long after this time the tracks are stated for"""
    tracks_unseen_ms: float = Field(default=1000 * TrackingSettings.max_unseen_s, ge=50, le=10_000)
    """a track ends when its object was not detected for this long"""
    tracks_coast_ms: float = Field(default=150.0, ge=20, le=10_000)
    """while no detections come, tracks are published this often, marked as coasted"""


class WatchdogSettings(CamerasSettings):
    """Parameters of watchdog_node."""

    detections_topic: Topic = same(DetectorSettings, "detections_topic")
    deadline_ms: float = same(PreprocessSettings, "deadline_ms")
    outcome_timeout_ms: float = Field(default=1000.0, ge=10, le=60_000)
    """a frame without an outcome after this time, or after two deadlines if that is longer, is
    reported as FAILED"""
    no_frame_ms: float = same(PreprocessSettings, "no_frame_ms")
    frozen_frames: int = Field(default=FaultLimits.frozen_frames, ge=0, le=1000)
    """after this many consecutive frames whose pixels are those of one of the 16 frames before,
    health is UNSAFE; 0: never"""
    expected_rate_hz: float = Field(default=0.0, ge=0, le=1000)
    """frames a second that the camera should send; while fewer than 0.8 times as many come, health
    is DEGRADED; 0: the usual rate, as it is learned"""
    hardware_watchdog: str = ""
    """hardware watchdog device that watchdog_node triggers while it runs on time, such as
    /dev/watchdog; empty: none"""
    unsafe_after_ms: float = Field(default=500.0, ge=50, le=60_000)
    """if no detections are published for this long, health is UNSAFE"""
    unsafe_when_late_ms: float = Field(default=3000.0, ge=50, le=600_000)
    """if detections are published, but none in time for this long, health is UNSAFE"""
    safe_stop_clears: Literal["with_health", "by_service"] = "with_health"
    """when a safe-stop request ends: with_health, as soon as health is not UNSAFE; by_service, when
    it is not and the service perception/safe_stop/release is called, which is needed after each
    start, too"""
    degraded_miss_rate: float = Field(default=0.1, ge=0, le=1)
    """if a larger share of frames misses the deadline, or has only the result of a smaller model or
    another backend, health is DEGRADED"""


class PlayerSettings(Settings):
    """Parameters of player_node."""

    bag: str = ""
    """recorded drive to play as the camera: ROS 2 bag folder, .mcap, .db3, ROS 1 .bag, video file
    or folder of images; or a generated one, synthetic:WIDTHxHEIGHT@RATE*FRAMES"""
    topic: str = ""
    """image topic in the recorded drive; empty: found by its type"""
    rate: float = Field(default=1.0, ge=0.01, le=100)
    """playback speed; 2 plays twice as fast"""
    source: Source = same(PreprocessSettings, "source")
    image_topic: Topic = same(PreprocessSettings, "image_topic")
    ready_timeout_s: float = Field(default=60.0, ge=1, le=3600)
    """how long the player waits for the other nodes before it gives up"""
    accounted: bool = True
    """start only when the watchdog reports that all processes are ready, and end only when it has
    accounted for every frame"""
    listeners: int = Field(default=0, ge=0, le=100)
    """number of subscribers to the detections that the player waits for"""
    detections_topic: Topic = same(DetectorSettings, "detections_topic")
    sent_file: str = ""
    """JSON file to write the stamps of the played frames to; empty: none"""


class ViewSettings(CamerasSettings):
    """Parameters of view_node, which shows the graph on a page in the browser."""

    deadline_ms: float = same(PreprocessSettings, "deadline_ms")
    sample_bits: int = same(PreprocessSettings, "sample_bits")
    view: bool = False
    """show cameras, latency, health and missed frames on a page in the browser"""
    view_port: int = Field(default=8090, ge=1, le=65_535)
    """port of the page"""
    view_address: str = Field(
        default="localhost",
        pattern=r"^[A-Za-z0-9.:-]{1,253}$",
        examples=["localhost", "192.168.1.5", "0.0.0.0"],
    )
    """address of this machine that the page is served on; another than localhost can be reached
    from the network, and needs a token in $PERCEPTION_VIEW_TOKEN"""
    view_rate: float = Field(default=10.0, ge=1, le=30)
    """pictures of a camera on the page, a second at most"""

    @property
    def view_url(self) -> str:
        """The URL of the page."""
        host = f"[{self.view_address}]" if ":" in self.view_address else self.view_address
        return f"http://{host}:{self.view_port}"


class MonitorSettings(Settings):
    """Parameters of monitor_node."""

    detections_topic: Topic = same(DetectorSettings, "detections_topic")
    deadline_ms: float = same(PreprocessSettings, "deadline_ms")
    recording: str = ""
    """mcap file to record the graph's outputs to; empty: none"""
    record_protected: bool = False
    """record the protected copies of the topics, too"""
    frames: int = Field(default=0, ge=0)
    """number of frames expected, for the progress bar; 0: unknown"""
    live: bool = True
    """show a live view in the terminal"""
