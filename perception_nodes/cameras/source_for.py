"""A source by what a user writes, such as `v4l2:/dev/video0` or `rtsp://HOST/PATH`."""

import os

from perception_nodes.cameras.source import CameraError, CameraSource

FORMS = "v4l2:/dev/video0, gst:PIPELINE, lib:LIBRARY.so, rtsp://HOST/PATH, or a video file"


def source_for(
    text: str,
    *,
    width: int = 0,
    height: int = 0,
    rate_hz: float = 0.0,
    pixel_format: str = "",
    exposure_us: int | None = None,
    gain: int | None = None,
    loop: bool = False,
) -> CameraSource:
    """The source of that name; its module is imported now, its device opened later.

    Args:
        text: one of `FORMS`.
        width: pixels, 0 for the source's own choice; V4L2.
        height: the same.
        rate_hz: frames a second, 0 for the source's own choice; V4L2.
        pixel_format: the kernel's four letters; V4L2.
        exposure_us: microseconds, turns automatic exposure off; V4L2.
        gain: in the units of the device; V4L2.
        loop: begin a file anew at its end.

    Raises:
        CameraError: it is of no known form, or an option is not for it.
    """
    text = _located(text)
    kind, _, rest = text.partition(":")
    of_v4l2 = {
        "size": width or height,
        "rate": rate_hz,
        "format": pixel_format,
        "exposure": exposure_us is not None,
        "gain": gain is not None,
    }
    if kind == "v4l2" or text.startswith("/dev/video"):
        from perception_nodes.cameras.v4l2 import V4l2Source
        from perception_nodes.cameras.v4l2_devices import V4l2Settings

        device = rest if kind == "v4l2" else text
        return V4l2Source(
            V4l2Settings(device, width, height, rate_hz, pixel_format, exposure_us, gain)
        )
    for name, given in of_v4l2.items():
        if given:
            raise CameraError(f"{text}: {name} can only be set for v4l2: sources")
    if kind == "gst":
        from perception_nodes.cameras.gstreamer import GStreamerSource

        return GStreamerSource(rest)
    if kind == "lib":
        from perception_nodes.cameras.library import LibrarySource

        return LibrarySource(rest)
    if "://" in text or is_file(text):
        from perception_nodes.cameras.video_source import VideoSettings, VideoSource

        return VideoSource(VideoSettings(text, loop))
    raise CameraError(f"camera {text!r} is neither there nor of a known form: {FORMS}")


def is_file(text: str) -> bool:
    """Whether a source is a file, which is played as a camera."""
    return os.path.isfile(_located(text))


def _located(text: str) -> str:
    """A URL with its scheme in small letters, which FFmpeg wants; a file's without its scheme."""
    scheme, mark, rest = text.partition("://")
    if not (mark and scheme.isalnum()):
        return text
    return rest if scheme.lower() == "file" else scheme.lower() + mark + rest
