"""Video4Linux's kernel interface: structures, requests and pixel formats (videodev2.h, 64 bit).

It holds only what a capture device needs. Names are the kernel's, so that its manual applies:
https://docs.kernel.org/userspace-api/media/v4l/v4l2.html
"""

import ctypes
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from typing import Any, TypeVar

BUF_TYPE_VIDEO_CAPTURE = 1
MEMORY_MMAP, MEMORY_USERPTR = 1, 2
FIELD_NONE, FIELD_INTERLACED = 1, 4
NOT_WHOLE = {0: "any", 2: "top", 3: "bottom", 5: "seq-tb", 6: "seq-bt", 7: "alternate"}
"""The values of `v4l2_field` with which a buffer does not hold the rows of a picture in order."""
CAP_VIDEO_CAPTURE, CAP_STREAMING = 0x1, 0x04000000
CAP_TIMEPERFRAME = 0x1000
BUF_FLAG_ERROR = 0x40
BUF_FLAG_TIMESTAMP_MASK, BUF_FLAG_TIMESTAMP_MONOTONIC = 0xE000, 0x2000
CTRL_FLAG_DISABLED, CTRL_FLAG_NEXT_CTRL = 0x1, 0x80000000
CTRL_TYPE_CLASS = 6
FRMSIZE_TYPE_DISCRETE = 1
EVENT_SOURCE_CHANGE = 5
CID_GAIN, CID_EXPOSURE_AUTO, CID_EXPOSURE_ABSOLUTE = 0x00980913, 0x009A0901, 0x009A0902
EXPOSURE_MANUAL = 1

ENCODINGS = {
    b"NV12": "nv12",
    b"NV21": "nv21",
    b"YUYV": "yuyv",
    b"UYVY": "uyvy",
    b"BGR3": "bgr8",
    b"RGB3": "rgb8",
    b"GREY": "mono8",
    b"RGGB": "bayer_rggb8",
    b"BA81": "bayer_bggr8",
    b"GBRG": "bayer_gbrg8",
    b"GRBG": "bayer_grbg8",
    b"MJPG": "jpeg",
    b"JPEG": "jpeg",
}
"""ROS encodings by the kernel's code; those that cost preprocessing least come first."""
MATRICES = {1: "BT.601", 2: "BT.709", 3: "BT.601", 4: "BT.709", 6: "BT.2020", 8: "SMPTE 240M"}
USUAL_MATRICES = {2: "SMPTE 240M", 3: "BT.709", 10: "BT.2020"}
"""Names of YUV matrices by `v4l2_ycbcr_encoding`; if that is not set, by `v4l2_colorspace`."""
COLORSPACE_JPEG, FULL_RANGE = 7, 1


def _fields(declared: str) -> list[tuple[str, Any]]:
    """Fields of a structure, as C declares them: `uint32 index, size[2]; char name[32]`."""
    found = []
    for declaration in declared.split("; "):
        kind, _, names = declaration.partition(" ")
        one = getattr(ctypes, f"c_{kind}")
        for name, count in re.findall(r"(\w+)(?:\[(\d+)\])?", names):
            found.append((name, one * int(count) if count else one))
    return found


class Capability(ctypes.Structure):
    """`v4l2_capability`: what the device is."""

    _fields_ = _fields(
        "char driver[16], card[32], bus_info[32]; uint32 version, capabilities, device_caps, "
        "reserved[3]"
    )


class FormatDescription(ctypes.Structure):
    """`v4l2_fmtdesc`: a pixel format that the device has."""

    _fields_ = _fields(
        "uint32 index, type, flags; char description[32], pixelformat[4]; uint32 mbus_code, "
        "reserved[3]"
    )


class FrameSize(ctypes.Structure):
    """`v4l2_frmsizeenum`: a size in the first two of `range`, or a range of sizes."""

    _fields_ = _fields("uint32 index; char pixel_format[4]; uint32 type, range[6], reserved[2]")


class FrameInterval(ctypes.Structure):
    """`v4l2_frmivalenum`: the shortest time between frames at a size, as a fraction of a second."""

    _fields_ = _fields(
        "uint32 index; char pixel_format[4]; uint32 width, height, type, numerator, denominator, "
        "rest[4], reserved[2]"
    )


class Format(ctypes.Structure):
    """`v4l2_format` with its `v4l2_pix_format`."""

    _fields_ = _fields(
        "uint32 type, padding, width, height; char pixelformat[4]; uint32 field, bytesperline, "
        "sizeimage, colorspace, priv, flags, ycbcr_enc, quantization, xfer_func; uint8 rest[152]"
    )


class StreamParameters(ctypes.Structure):
    """`v4l2_streamparm` with its `v4l2_captureparm`."""

    _fields_ = _fields(
        "uint32 type, capability, capturemode, numerator, denominator; uint8 rest[184]"
    )


class RequestBuffers(ctypes.Structure):
    """`v4l2_requestbuffers`."""

    _fields_ = _fields("uint32 count, type, memory, capabilities; uint8 flags, reserved[3]")


class Buffer(ctypes.Structure):
    """`v4l2_buffer`; `memory_at` is its union: an offset for mmap, or a user pointer."""

    _fields_ = _fields(
        "uint32 index, type, bytesused, flags, field; int64 timestamp_s, timestamp_us; "
        "uint32 timecode[4], sequence, memory; ulong memory_at; uint32 length, reserved2; "
        "int32 request_fd"
    )


class QueryControl(ctypes.Structure):
    """`v4l2_queryctrl`: a control and its range."""

    _fields_ = _fields(
        "uint32 id, type; char name[32]; int32 minimum, maximum, step, default_value; "
        "uint32 flags, reserved[2]"
    )


class Control(ctypes.Structure):
    """`v4l2_control`."""

    _fields_ = _fields("uint32 id; int32 value")


class EventSubscription(ctypes.Structure):
    """`v4l2_event_subscription`."""

    _fields_ = _fields("uint32 type, id, flags, reserved[5]")


class Event(ctypes.Structure):
    """`v4l2_event`."""

    _fields_ = _fields(
        "uint32 type, padding; uint8 data[64]; uint32 pending, sequence; int64 timestamp[2]; "
        "uint32 id, reserved[8]"
    )


def _request(direction: int, number: int, structure: type) -> int:
    """The number of an ioctl, as asm-generic/ioctl.h composes it."""
    return direction << 30 | ctypes.sizeof(structure) << 16 | ord("V") << 8 | number


Entry = TypeVar("Entry", bound=ctypes.Structure)
_W, _R, _WR = 1, 2, 3
QUERYCAP = _request(_R, 0, Capability)
ENUM_FMT = _request(_WR, 2, FormatDescription)
S_FMT = _request(_WR, 5, Format)
REQBUFS = _request(_WR, 8, RequestBuffers)
QUERYBUF = _request(_WR, 9, Buffer)
QBUF = _request(_WR, 15, Buffer)
DQBUF = _request(_WR, 17, Buffer)
STREAMON = _request(_W, 18, ctypes.c_int32)
STREAMOFF = _request(_W, 19, ctypes.c_int32)
G_PARM = _request(_WR, 21, StreamParameters)
S_PARM = _request(_WR, 22, StreamParameters)
S_CTRL = _request(_WR, 28, Control)
QUERYCTRL = _request(_WR, 36, QueryControl)
ENUM_FRAMESIZES = _request(_WR, 74, FrameSize)
ENUM_FRAMEINTERVALS = _request(_WR, 75, FrameInterval)
DQEVENT = _request(_R, 89, Event)
SUBSCRIBE_EVENT = _request(_W, 90, EventSubscription)


def call(descriptor: int, request: int, argument: ctypes.Structure | ctypes.c_int32) -> None:
    """Make a request that fills or reads `argument`.

    Raises:
        OSError: the driver refuses.
    """
    fcntl.ioctl(descriptor, request, argument)


def enumerated(descriptor: int, request: int, make: type[Entry], **fields: int) -> Iterator[Entry]:
    """The entries of one of the kernel's lists, index by index."""
    index = 0
    while True:
        entry = make(index=index, **fields)
        try:
            call(descriptor, request, entry)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY):
                return
            raise
        yield entry
        index += 1


def stream(descriptor: int, request: int) -> None:
    """Start or stop (`STREAMON`, `STREAMOFF`).

    Raises:
        OSError: the driver refuses.
    """
    call(descriptor, request, ctypes.c_int32(BUF_TYPE_VIDEO_CAPTURE))


def letters(code: bytes) -> str:
    """The four letters of a pixel format as text, with -BE if it is big-endian; - for none."""
    code = code.ljust(4, b"-")  # ctypes cuts a code at a NUL
    return bytes(one & 0x7F for one in code).decode() + "-BE" * (code[3] >> 7)


def open_device(path: str) -> int:
    """Open a device for non-blocking use; its descriptor.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
