"""Any GStreamer pipeline as a camera: a Jetson's CSI cameras, hardware decoders, industrial ones.

GStreamer is the system's, and PyGObject binds it; both are optional and imported when used. Our
`appsink` is attached to the end of the pipeline, for instance of

    nvarguscamerasrc ! video/x-raw(memory:NVMM),width=1920,height=1080 ! nvvidconv
    videotestsrc is-live=true ! video/x-raw,format=NV12,width=640,height=480
"""

import re
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.cameras.camera_source import (
    CameraEnded,
    CameraError,
    CameraFormat,
    CameraGone,
    CapturedFrame,
    colour_note,
)
from perception_nodes.cameras.channel import CameraHeader
from perception_nodes.cameras.credentials import with_passwords
from perception_nodes.cameras.mailbox import Arrived, Mailbox
from perception_nodes.core.frame import MAX_GAP
from perception_nodes.transport.shm import Writer
from perception_nodes.video.ffmpeg import write_planes

ENCODINGS = dict(
    one.split(":")
    for one in "NV12:nv12 NV21:nv21 I420:nv12 YUY2:yuyv UYVY:uyvy BGR:bgr8 RGB:rgb8 BGRx:bgra8 "
    "BGRA:bgra8 RGBx:rgba8 RGBA:rgba8 GRAY8:mono8".split()
)
"""ROS encodings by GStreamer's format, preferred first; I420 is converted by the copy."""
MATRICES = {2: "FCC", 3: "BT.709", 4: "BT.601", 5: "SMPTE 240M", 6: "BT.2020"}
"""Names of colour matrices by GStreamer's GstVideoColorMatrix."""
OPEN_TIMEOUT_S, ERROR_TIMEOUT_S = 10.0, 1.0
QUEUED = 16
"""Frames that wait in the sink for our thread."""
PULL_MS = 50.0
"""How long the thread waits for a frame before it looks whether it is to end."""
UNSET = 2**64 - 1
"""GStreamer's GST_BUFFER_OFFSET_NONE."""
SINK = "perception_sink"
REMEDY = (
    "install them with: apt install gstreamer1.0-plugins-base gir1.2-gst-plugins-base-1.0 "
    "libgirepository-2.0-dev libcairo2-dev gcc, then pip install PyGObject into this environment"
)


class GStreamerSource:
    """A pipeline, see `CameraSource`."""

    _slots: Writer[CameraHeader]
    """Of the channel; from `start` on."""

    def __init__(self, pipeline: str, loop: bool = False) -> None:
        """Nothing is opened yet.

        Args:
            pipeline: its description, as gst-launch takes it.
            loop: whether a clip begins anew at its end.
        """
        self._description, self._name = pipeline, f"gst:{pipeline}"
        self._loop = loop
        self._end: type[CameraError] = CameraGone
        self._pipeline: Any = None
        self._pulled = Mailbox()
        self._sequence: int | None = None
        self._unfit = 0  # frames of another size, which count as lost before the next one

    def open(self) -> CameraFormat:
        """Start the pipeline and wait for its first frame's format, see `CameraSource`."""
        self.close()
        gst, gst_video = _gstreamer()
        formats = ",".join(ENCODINGS)
        try:
            self._pipeline = gst.parse_launch(
                f"{with_passwords(self._description)} ! appsink name={SINK} max-buffers={QUEUED} "
                f"caps=video/x-raw,format={{{formats}}}"
            )
        except Exception as error:  # GLib.Error, whose class comes with PyGObject
            unfit = re.search(r"could not link (\S+)", str(error))
            mend = _mend(unfit[1]) if unfit else ""
            raise CameraError(f"{self._name} is no pipeline: {error}{mend}") from error
        self._gst, self._complaint = gst, ""
        self._sink = self._pipeline.get_by_name(SINK)
        self._pipeline.set_state(gst.State.PAUSED)
        state = self._pipeline.get_state(round(OPEN_TIMEOUT_S * gst.SECOND))[0]
        if state == gst.StateChangeReturn.FAILURE:
            raise CameraGone(f"{self._name} does not start: {self._error(ERROR_TIMEOUT_S)}")
        # A live source keeps its own pace; a file would be read as fast as it can be.
        is_live = state == gst.StateChangeReturn.NO_PREROLL
        self._sink.set_property("sync", not is_live)
        self._pipeline.set_state(gst.State.PLAYING)
        if (first := self._pull(OPEN_TIMEOUT_S * 1e3)) is None:
            raise CameraGone(f"{self._name} gives no frame: {self._error(ERROR_TIMEOUT_S)}")
        # Only a clip has a duration; it comes before its pipeline plays.
        is_clip = not is_live and self._pipeline.query_duration(gst.Format.TIME)[0]
        self._end = CameraEnded if is_clip and not self._loop else CameraGone
        self._first, self._caps = first, first.get_caps()
        self._read_info = gst_video.VideoInfo.new_from_caps
        self._info = info = self._read_info(self._caps)
        name, width, height = info.finfo.name, info.width, info.height
        step, size = info.stride[0], info.size
        if name == "I420":
            width, height = width & ~1, height & ~1
            step, size = width, width * height * 3 // 2
        self._frame = ENCODINGS[name], width, height, step, size
        rate_hz = info.fps_n / info.fps_d if info.fps_d else 0.0
        colours, self._sequence = info.colorimetry, None
        is_full = colours.range == gst_video.VideoColorRange(1)
        note = colour_note(ENCODINGS[name], MATRICES.get(int(colours.matrix), ""), is_full)
        description = f"{self._name}, {name} {width}x{height} at {rate_hz:g} Hz, one copy{note}"
        return CameraFormat(size, description)

    def start(self, slots: Writer[CameraHeader]) -> None:
        """See `CameraSource`; the pipeline is running already."""
        self._slots, self._pulled = slots, Mailbox()
        self._pulled.fill(self._drain)

    def capture(self, timeout_ms: float) -> CapturedFrame | None:
        """The next frame, see `CameraSource`."""
        if (found := self._pulled.take(timeout_ms / 1e3)) is None:
            return None
        buffer = found.frame.get_buffer()
        if buffer.get_size() != self._info.size or not self._fits(found.frame.get_caps()):
            self._unfit += found.lost + 1
            raise CameraGone(f"{self._name} now gives frames of another size or format")
        mapped, view = buffer.map(self._gst.MapFlags.READ)
        if not mapped:
            raise CameraError(f"{self._name}: its frames cannot be read by the processor")
        try:
            slot = self._slots.loan(self._frame[-1])
            self._copy(np.frombuffer(view.data, np.uint8), slot.payload)
        finally:
            buffer.unmap(view)
        slot.header.describe(found.stamp_ns, *self._frame)
        return CapturedFrame(slot, self._gap(buffer, found.lost), found.cause)

    def _fits(self, caps: Any) -> bool:
        """Whether frames are like the first one, except for their rate."""
        if not caps.is_equal(self._caps):
            if _layout(self._read_info(caps)) != _layout(self._info):
                return False
            self._caps = caps
        return True

    def _copy(self, pixels: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        info, (_, width, height, *_) = self._info, self._frame
        if info.finfo.name != "I420":
            out[:] = pixels
            return
        rows = height, height // 2, height // 2
        places = zip(info.offset, info.stride, rows, strict=False)
        planes = [pixels[at : at + step * n].reshape(n, step) for at, step, n in places]
        write_planes(planes, out.reshape(height * 3 // 2, width))

    def close(self) -> None:
        """Stop the pipeline, see `CameraSource`."""
        self._pulled.close()
        if self._pipeline is not None:
            self._pipeline.set_state(self._gst.State.NULL)
            self._pipeline = None

    def _drain(self) -> None:
        """Pull each frame at once, since nothing counts what a full sink drops."""
        unfit, self._unfit = self._unfit, 0
        cause = "the size of the frames changed" if unfit else ""
        self._pulled.put(Arrived(self._first, self._stamp_ns(self._first), unfit, cause))
        while not self._pulled.closed.is_set():
            sample = self._pull(PULL_MS)
            self._error()  # else the messages of the elements would pile up
            if sample is not None:
                self._pulled.put(Arrived(sample, self._stamp_ns(sample)))
            elif self._sink.get_property("eos"):
                kind = CameraGone if self._complaint else self._end
                why = f": {self._complaint}" * bool(self._complaint)
                self._pulled.put(kind(f"{self._name} has ended{why}"))
                return

    def _pull(self, timeout_ms: float) -> Any:
        return self._sink.emit("try-pull-sample", round(timeout_ms * 1e6))

    def _stamp_ns(self, taken: Any) -> int:
        """The wall clock at capture by the pipeline's clock; now if the frame has no time."""
        clock, wall_ns = self._pipeline.get_clock(), time.time_ns()
        pts = taken.get_buffer().pts
        if clock is None or pts == self._gst.CLOCK_TIME_NONE:
            return wall_ns
        now_ns = clock.get_time() - self._pipeline.get_base_time()
        taken_ns = taken.get_segment().to_running_time(self._gst.Format.TIME, pts)
        return wall_ns - int(now_ns - taken_ns)

    def _gap(self, buffer: Any, skipped: int) -> int:
        """Number of frames lost before this one: as the source counts, else those we skipped."""
        expected, number = self._sequence, int(buffer.offset)
        is_number = number != UNSET and buffer.offset_end in (number + 1, number, UNSET)
        self._sequence = number + 1 if is_number else None
        if expected is None or not is_number:
            return skipped
        gap = number - expected
        # Some parsers give positions in bytes; if `offset_end` is the next number, it is a number.
        return skipped if gap < 0 or (gap > MAX_GAP and buffer.offset_end != number + 1) else gap

    def _error(self, timeout_s: float = 0.0) -> str:
        """The first error on the pipeline's bus, which causes the others; empties the bus."""
        bus, timeout_ns = self._pipeline.get_bus(), round(timeout_s * 1e9)
        kind = self._gst.MessageType.ERROR
        while (message := bus.timed_pop_filtered(timeout_ns, kind)) is not None:
            error, detail = message.parse_error()
            text = " ".join([error.message, *(detail or "").splitlines()[-1:]])
            if "not-negotiated" in text:
                text += _mend(self._unfit_element())
            self._complaint, timeout_ns = self._complaint or text, 0
        return self._complaint or "it does not say why"

    def _unfit_element(self) -> str:
        """The element whose output has a format that the next one does not take."""
        for element in self._pipeline.children:
            has_format = any(pad.get_current_caps() for pad in element.pads)
            peers = [pad.get_peer() for pad in element.srcpads]
            if has_format and any(one is not None and not one.get_current_caps() for one in peers):
                return str(element.get_name())
        return "the element before the caps"


def _layout(info: Any) -> tuple[Any, ...]:
    """The fields of GstVideo's VideoInfo by which a frame's pixels are read."""
    colours = info.colorimetry.to_string()
    return info.finfo.name, info.width, info.height, colours, *info.stride, *info.offset


def _mend(element: str) -> str:
    coded = "`! decodebin ! videoconvert` if its video is coded"
    return f"; put `! videoconvert` behind {element}, or {coded}"


def _gstreamer() -> tuple[Any, Any]:
    """PyGObject's Gst and GstVideo, ready.

    Raises:
        CameraError: it is not installed.
    """
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstVideo", "1.0")
        from gi.repository import Gst, GstVideo
    except (ImportError, ValueError) as error:
        raise CameraError(f"gst: needs GStreamer and PyGObject ({error}); {REMEDY}") from error
    Gst.init(None)
    return Gst, GstVideo
