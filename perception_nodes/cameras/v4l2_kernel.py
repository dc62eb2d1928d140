"""Video4Linux's kernel interface: structures, requests and pixel formats (videodev2.h, 64 bit).

It holds only what a capture device needs. Names are the kernel's, so that its manual applies:
https://docs.kernel.org/userspace-api/media/v4l/v4l2.html
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from typing import TypeVar

from perception_nodes.core.structures import fields

BUF_TYPE_VIDEO_CAPTURE, BUF_TYPE_VIDEO_CAPTURE_MPLANE = 1, 9
MEMORY_MMAP, MEMORY_USERPTR = 1, 2
FIELD_NONE, FIELD_INTERLACED = 1, 4
INTERLACED = (FIELD_INTERLACED, 8, 9)
"""The values of `v4l2_field` with which every other row of a picture is of another instant."""
NOT_WHOLE = {0: "any", 2: "top", 3: "bottom", 5: "seq-tb", 6: "seq-bt", 7: "alternate"}
"""The values of `v4l2_field` with which a buffer does not hold the rows of a picture in order."""
CAP_VIDEO_CAPTURE, CAP_VIDEO_CAPTURE_MPLANE, CAP_STREAMING = 0x1, 0x1000, 0x04000000
CAP_TIMEPERFRAME = 0x1000
BUF_FLAG_ERROR = 0x40
BUF_FLAG_TIMESTAMP_MASK, BUF_FLAG_TIMESTAMP_MONOTONIC = 0xE000, 0x2000
BUF_FLAG_TSTAMP_SRC_SOE = 0x10000
IN_CAP_DV_TIMINGS = 0x2
IN_STATUS = {0x1: "no power", 0x2: "no signal", 0x100: "no horizontal lock", 0x10000: "no sync"}
"""Bits of an input's status with which its pictures are none."""
CTRL_FLAG_DISABLED, CTRL_FLAG_NEXT_CTRL = 0x1, 0x80000000
CTRL_TYPES_SET = (1, 2, 3, 8, 9)
"""Types of controls whose value is a number: integers, switches, menus, bits."""
CTRL_FLAG_READ_ONLY = 0x4
FRMSIZE_TYPE_DISCRETE = 1
EVENT_SOURCE_CHANGE = 5
CID_AUTOGAIN, CID_GAIN = 0x00980912, 0x00980913
_BY_SWITCH = {
    (CID_AUTOGAIN, 0): (CID_GAIN, 0x009E0903),  # analogue gain
    (0x009A0901, 1): (0x00980911, 0x009A0902),  # exposure, exposure time
    (0x0098090C, 0): (0x0098090E, 0x0098090F, 0x0098091A),  # balance of red, blue; white
    (0x00980919, 0): (0x00980903,),  # hue
    (0x00980920, 0): (0x00980900,),  # brightness
    (0x0098091D, 0): (0x0098091E,),  # chroma gain
    (0x009A090C, 0): (0x009A090A,),  # focus
    (0x009A0918, 0): (0x009A0917,),  # ISO sensitivity
}
AUTOMATIC = {one: switch for switch, controls in _BY_SWITCH.items() for one in controls}
"""Controls that the device may also set by itself: the control of that, and its value for off."""

_CODES = (
    "NV12 nv12, NV21 nv21, YUYV yuyv, UYVY uyvy, BGR3 bgr8, RGB3 rgb8, GREY mono8, "
    "RGGB bayer_rggb8, BA81 bayer_bggr8, GBRG bayer_gbrg8, GRBG bayer_grbg8, XR24 bgra8, "
    "AR24 bgra8, BGR4 bgra8, XB24 rgba8, AB24 rgba8, YU12 i420, Y10 mono10, Y12 mono12, "
    "Y14 mono14, Y16 mono16, RG10 bayer_rggb10, BG10 bayer_bggr10, GB10 bayer_gbrg10, "
    "BA10 bayer_grbg10, RG12 bayer_rggb12, BG12 bayer_bggr12, GB12 bayer_gbrg12, "
    "BA12 bayer_grbg12, RG14 bayer_rggb14, BG14 bayer_bggr14, GB14 bayer_gbrg14, "
    "GR14 bayer_grbg14, RG16 bayer_rggb16, BYR2 bayer_bggr16, GB16 bayer_gbrg16, "
    "GR16 bayer_grbg16, pRAA bayer_rggb10p, pBAA bayer_bggr10p, pGAA bayer_gbrg10p, "
    "pgAA bayer_grbg10p, pRCC bayer_rggb12p, pBCC bayer_bggr12p, pGCC bayer_gbrg12p, "
    "pgCC bayer_grbg12p, Y10P mono10p, Y12P mono12p, MJPG jpeg, JPEG jpeg"
)
ENCODINGS = {code.encode().ljust(4): name for code, name in map(str.split, _CODES.split(", "))}
"""ROS encodings by the kernel's code; those that cost preprocessing least come first."""
MATRICES = {1: "BT.601", 2: "BT.709", 3: "BT.601", 4: "BT.709", 6: "BT.2020", 8: "SMPTE 240M"}
USUAL_MATRICES = {2: "SMPTE 240M", 3: "BT.709", 10: "BT.2020"}
"""Names of YUV matrices by `v4l2_ycbcr_encoding`; if that is not set, by `v4l2_colorspace`."""
COLORSPACE_JPEG, FULL_RANGE = 7, 1


class Capability(ctypes.Structure):
    """`v4l2_capability`: what the device is."""

    _fields_ = fields(
        "char driver[16], card[32], bus_info[32]; uint32 version, capabilities, device_caps, "
        "reserved[3]"
    )


class FormatDescription(ctypes.Structure):
    """`v4l2_fmtdesc`: a pixel format that the device has."""

    _fields_ = fields(
        "uint32 index, type, flags; char description[32], pixelformat[4]; uint32 mbus_code, "
        "reserved[3]"
    )


class FrameSize(ctypes.Structure):
    """`v4l2_frmsizeenum`: a size in the first two of `range`, or a range of sizes."""

    _fields_ = fields("uint32 index; char pixel_format[4]; uint32 type, range[6], reserved[2]")


class FrameInterval(ctypes.Structure):
    """`v4l2_frmivalenum`: the shortest time between frames at a size, as a fraction of a second."""

    _fields_ = fields(
        "uint32 index; char pixel_format[4]; uint32 width, height, type, numerator, denominator, "
        "rest[4], reserved[2]"
    )


class Format(ctypes.Structure):
    """`v4l2_format` with its `v4l2_pix_format`."""

    _fields_ = fields(
        "uint32 type, padding, width, height; char pixelformat[4]; uint32 field, bytesperline, "
        "sizeimage, colorspace, priv, flags, ycbcr_enc, quantization, xfer_func; uint8 rest[152]"
    )


class PlaneFormat(ctypes.Structure):
    """`v4l2_plane_pix_format`."""

    _fields_ = fields("uint32 sizeimage, bytesperline; uint16 reserved[6]")


class FormatOfPlanes(ctypes.Structure):
    """`v4l2_format` with its `v4l2_pix_format_mplane`."""

    _fields_ = [
        *fields(
            "uint32 type, padding, width, height; char pixelformat[4]; uint32 field, colorspace"
        ),
        ("planes", PlaneFormat * 8),
        *fields("uint8 num_planes, flags, ycbcr_enc, quantization, xfer_func, rest[15]"),
    ]


class StreamParameters(ctypes.Structure):
    """`v4l2_streamparm` with its `v4l2_captureparm`."""

    _fields_ = fields(
        "uint32 type, capability, capturemode, numerator, denominator; uint8 rest[184]"
    )


class RequestBuffers(ctypes.Structure):
    """`v4l2_requestbuffers`."""

    _fields_ = fields("uint32 count, type, memory, capabilities; uint8 flags, reserved[3]")


class Buffer(ctypes.Structure):
    """`v4l2_buffer`; `memory_at` is its union: an offset for mmap, or a user pointer."""

    _fields_ = fields(
        "uint32 index, type, bytesused, flags, field; int64 timestamp_s, timestamp_us; "
        "uint32 timecode[4], sequence, memory; ulong memory_at; uint32 length, reserved2; "
        "int32 request_fd"
    )


class Plane(ctypes.Structure):
    """`v4l2_plane`; `memory_at` is its union."""

    _fields_ = fields("uint32 bytesused, length; ulong memory_at; uint32 data_offset, reserved[11]")


class Input(ctypes.Structure):
    """`v4l2_input`."""

    _fields_ = fields(
        "uint32 index; char name[32]; uint32 type, audioset, tuner; uint64 std; uint32 status, "
        "capabilities, reserved[3]"
    )


class Timings(ctypes.Structure):
    """`v4l2_dv_timings`: those of a digital signal."""

    _pack_ = 1
    _fields_ = fields(
        "uint32 type, width, height, interlaced, polarities; uint64 pixelclock; uint8 rest[104]"
    )


class QueryControl(ctypes.Structure):
    """`v4l2_queryctrl`: a control and its range."""

    _fields_ = fields(
        "uint32 id, type; char name[32]; int32 minimum, maximum, step, default_value; "
        "uint32 flags, reserved[2]"
    )


class Control(ctypes.Structure):
    """`v4l2_control`."""

    _fields_ = fields("uint32 id; int32 value")


class EventSubscription(ctypes.Structure):
    """`v4l2_event_subscription`."""

    _fields_ = fields("uint32 type, id, flags, reserved[5]")


class Event(ctypes.Structure):
    """`v4l2_event`."""

    _fields_ = fields(
        "uint32 type, padding; uint8 data[64]; uint32 pending, sequence; int64 timestamp[2]; "
        "uint32 id, reserved[8]"
    )


def _io(direction: int, number: int, structure: type) -> int:
    """The number of an ioctl, as asm-generic/ioctl.h composes it."""
    return direction << 30 | ctypes.sizeof(structure) << 16 | ord("V") << 8 | number


Entry = TypeVar("Entry", bound=ctypes.Structure)
_W, _R, _WR = 1, 2, 3
QUERYCAP, ENUM_FMT = _io(_R, 0, Capability), _io(_WR, 2, FormatDescription)
G_FMT, S_FMT, REQBUFS = _io(_WR, 4, Format), _io(_WR, 5, Format), _io(_WR, 8, RequestBuffers)
QUERYBUF, QBUF, DQBUF = _io(_WR, 9, Buffer), _io(_WR, 15, Buffer), _io(_WR, 17, Buffer)
STREAMON, STREAMOFF = _io(_W, 18, ctypes.c_int32), _io(_W, 19, ctypes.c_int32)
G_PARM, S_PARM = _io(_WR, 21, StreamParameters), _io(_WR, 22, StreamParameters)
ENUMINPUT, G_CTRL, S_CTRL = _io(_WR, 26, Input), _io(_WR, 27, Control), _io(_WR, 28, Control)
QUERYCTRL, G_INPUT = _io(_WR, 36, QueryControl), _io(_R, 38, ctypes.c_int32)
S_INPUT, ENUM_FRAMESIZES = _io(_WR, 39, ctypes.c_int32), _io(_WR, 74, FrameSize)
ENUM_FRAMEINTERVALS, S_DV_TIMINGS = _io(_WR, 75, FrameInterval), _io(_WR, 87, Timings)
QUERY_DV_TIMINGS, DQEVENT = _io(_R, 99, Timings), _io(_R, 89, Event)
SUBSCRIBE_EVENT = _io(_W, 90, EventSubscription)


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
            if error.errno in (errno.EINVAL, errno.ENOTTY, errno.ENODATA):
                return
            raise
        yield entry
        index += 1


def stream(descriptor: int, request: int, buffer_type: int) -> None:
    """Start or stop (`STREAMON`, `STREAMOFF`).

    Raises:
        OSError: the driver refuses.
    """
    call(descriptor, request, ctypes.c_int32(buffer_type))


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
