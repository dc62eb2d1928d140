"""A source by what a user writes, such as `v4l2:/dev/video0` or `rtsp://HOST/PATH`."""

import os
from dataclasses import replace

from perception_nodes.cameras.camera_source import CameraError, CameraSource
from perception_nodes.cameras.v4l2_devices import V4l2Settings

FORMS = (
    "v4l2:/dev/video0, gst:PIPELINE, lib:LIBRARY.so, rtsp://HOST/PATH, a stream's SDP file, or a "
    "video file"
)
SDP = ".sdp"
"""The end of the name of a file that describes a stream."""
OWN_CHOICE = V4l2Settings()
"""A device chooses its mode itself."""


def source_for(
    text: str, wanted: V4l2Settings = OWN_CHOICE, *, loop: bool = False, rtsp_transport: str = "tcp"
) -> CameraSource:
    """The source that a text names; its device is not opened yet.

    Args:
        text: one of `FORMS`.
        wanted: mode and controls of a V4L2 device; for others, `OWN_CHOICE`.
        loop: begin a file or clip anew at its end.
        rtsp_transport: what an RTSP camera's packets come by, tcp or udp.

    Raises:
        CameraError: it is of no known form, or an option is not for it.
    """
    text = _located(text)
    kind, _, rest = text.partition(":")
    if kind == "v4l2" or text.startswith("/dev/video"):
        from perception_nodes.cameras.v4l2_source import V4l2Source

        return V4l2Source(replace(wanted, device=rest if kind == "v4l2" else text))
    if wanted != OWN_CHOICE:
        settings = "size, rate, format, input and controls"
        raise CameraError(f"{text}: {settings} can only be set for v4l2: sources")
    if kind == "gst":
        from perception_nodes.cameras.gstreamer_source import GStreamerSource

        return GStreamerSource(rest, loop)
    if kind == "lib":
        from perception_nodes.cameras.library_source import LibrarySource

        return LibrarySource(rest)
    if "://" in text or os.path.isfile(text):
        from perception_nodes.cameras.video_source import VideoSource

        return VideoSource(text, loop, rtsp_transport)
    raise CameraError(f"camera {text!r} is neither there nor of a known form: {FORMS}")


def is_file(text: str) -> bool:
    """Whether a source is a file, which is played as a camera."""
    return os.path.isfile(_located(text)) and not text.endswith(SDP)


def _located(text: str) -> str:
    """A URL with its scheme in lower case, as FFmpeg needs it; a file's URL without its scheme."""
    scheme, mark, rest = text.partition("://")
    if not (mark and scheme.isalnum()):
        return text
    return rest if scheme.lower() == "file" else scheme.lower() + mark + rest
