"""Any GStreamer pipeline as a camera: a Jetson's CSI cameras, hardware decoders, industrial ones.

GStreamer is the system's, reached through PyGObject; both are optional and imported when used. The
pipeline must end where an `appsink` of ours can be attached, for instance

    nvarguscamerasrc ! video/x-raw(memory:NVMM),width=1920,height=1080 ! nvvidconv
    videotestsrc is-live=true ! video/x-raw,format=NV12,width=640,height=480
"""

import time
from typing import Any

import numpy as np

from perception_nodes.cameras.channel import CameraHeader
from perception_nodes.cameras.source import CameraError, CameraFormat, CameraGone, CapturedFrame
from perception_nodes.transport.shm import Writer

ENCODINGS = {
    "NV12": "nv12",
    "NV21": "nv21",
    "YUY2": "yuyv",
    "UYVY": "uyvy",
    "BGR": "bgr8",
    "RGB": "rgb8",
    "BGRx": "bgra8",
    "BGRA": "bgra8",
    "RGBx": "rgba8",
    "RGBA": "rgba8",
    "GRAY8": "mono8",
}
"""ROS encodings by GStreamer's format; the order is that in which we ask for them."""
OPEN_TIMEOUT_S = 10.0
SINK = "perception_sink"
REMEDY = (
    "install them with: apt install python3-gi gstreamer1.0-plugins-base "
    "gir1.2-gst-plugins-base-1.0, into an environment that sees the system's packages "
    "(python3 -m venv --system-site-packages)"
)


class GStreamerSource:
    """A pipeline, see `CameraSource`."""

    def __init__(self, pipeline: str) -> None:
        """Take the pipeline's description; nothing is opened."""
        self._description = pipeline
        self._pipeline: Any = None
        self._slots: Writer[CameraHeader] | None = None

    def open(self) -> CameraFormat:
        """Start the pipeline and wait for its first frame's format, see `CameraSource`."""
        self.close()
        gst = _gstreamer()
        formats = ",".join(ENCODINGS)
        try:
            self._pipeline = gst.parse_launch(
                f"{self._description} ! appsink name={SINK} sync=false max-buffers=2 drop=true "
                f"caps=video/x-raw,format={{{formats}}}"
            )
        except Exception as error:  # GLib.Error, whose class comes with PyGObject
            raise CameraError(f"gst:{self._description} is no pipeline: {error}") from error
        self._gst = gst
        self._sink = self._pipeline.get_by_name(SINK)
        self._pipeline.set_state(gst.State.PLAYING)
        state = self._pipeline.get_state(round(OPEN_TIMEOUT_S * gst.SECOND))
        if state[0] == gst.StateChangeReturn.FAILURE:
            raise CameraGone(f"gst:{self._description} does not start: {self._error()}")
        self._first = self._pull(OPEN_TIMEOUT_S * 1e3)
        if self._first is None:
            raise CameraGone(f"gst:{self._description} gives no frame: {self._error()}")
        facts = self._first.get_caps().get_structure(0)
        name = facts.get_string("format")
        encoding = ENCODINGS[name]
        width, height = facts.get_value("width"), facts.get_value("height")
        known, numerator, denominator = facts.get_fraction("framerate")
        rate_hz = numerator / denominator if known and denominator else 0.0
        buffer = self._first.get_buffer()
        rows = height * 3 // 2 if encoding in ("nv12", "nv21") else height
        self._size_bytes = buffer.get_size()
        self._frame = encoding, width, height, self._size_bytes // rows, self._size_bytes
        self._sequence: int | None = None
        return CameraFormat(
            *self._frame,
            rate_hz,
            1,
            2,
            f"gst:{self._description}, {name} {width}x{height} at {rate_hz:g} Hz, one copy",
        )

    def start(self, slots: Writer[CameraHeader]) -> None:
        """See `CameraSource`; the pipeline is running already."""
        self._slots = slots

    def capture(self, timeout_ms: float) -> CapturedFrame | None:
        """The next frame, see `CameraSource`."""
        assert self._slots is not None
        taken = self._first or self._pull(timeout_ms)
        self._first = None
        if taken is None:
            if self._sink.get_property("eos"):
                raise CameraGone(f"gst:{self._description} has ended: {self._error()}")
            return None
        buffer = taken.get_buffer()
        if buffer.get_size() != self._size_bytes:
            raise CameraGone(f"gst:{self._description} now gives frames of another size")
        mapped, view = buffer.map(self._gst.MapFlags.READ)
        if not mapped:
            raise CameraError(
                f"gst:{self._description}: its frames cannot be read by the processor"
            )
        try:
            sample = self._slots.loan(self._size_bytes)
            sample.payload[:] = np.frombuffer(view.data, np.uint8)
        finally:
            buffer.unmap(view)
        sample.header.describe(self._stamp_ns(buffer), *self._frame)
        return CapturedFrame(sample, self._gap(buffer))

    def close(self) -> None:
        """Stop the pipeline, see `CameraSource`."""
        if self._pipeline is not None:
            self._pipeline.set_state(self._gst.State.NULL)
            self._pipeline = None

    def _pull(self, timeout_ms: float) -> Any:
        return self._sink.emit("try-pull-sample", round(timeout_ms * 1e6))

    def _stamp_ns(self, buffer: Any) -> int:
        """The wall clock at capture, by the pipeline's clock; now where frames have no time."""
        clock, wall_ns = self._pipeline.get_clock(), time.time_ns()
        if clock is None or buffer.pts == self._gst.CLOCK_TIME_NONE:
            return wall_ns
        running_ns = clock.get_time() - self._pipeline.get_base_time()
        return wall_ns - int(running_ns - buffer.pts)

    def _gap(self, buffer: Any) -> int:
        """Frames that the source counted and we did not get, where it counts them."""
        number = buffer.offset
        if number == self._gst.BUFFER_OFFSET_NONE:
            return 0
        expected, self._sequence = self._sequence, number + 1
        return max(0, number - expected) if expected is not None else 0

    def _error(self) -> str:
        """What the pipeline last complained of."""
        message = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        return message.parse_error()[0].message if message else "it does not say why"


def _gstreamer() -> Any:
    """PyGObject's Gst, ready.

    Raises:
        CameraError: it is not installed.
    """
    try:
        import gi

        gi.require_version("Gst", "1.0")
        from gi.repository import Gst
    except (ImportError, ValueError) as error:
        raise CameraError(f"gst: needs GStreamer and PyGObject ({error}); {REMEDY}") from error
    Gst.init(None)
    return Gst
