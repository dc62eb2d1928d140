"""Serialized ROS messages (OMG CDR, XCDR1), read; images in place.

Every read is checked against the end of the buffer: a message from the network is never trusted.
Fields follow the `.msg` definitions of sensor_msgs, foxglove_msgs and ffmpeg_image_transport_msgs.
"""

import re
import struct
from contextlib import suppress

from perception_nodes.core.frame import (
    FRAME_ID_BYTES,
    MOSAIC_IN,
    CameraInfo,
    FrameRejected,
    ImageView,
)
from perception_nodes.transport.cdr import HEADER_SIZE, NO_PICTURE, NS_PER_S

Buffer = bytes | bytearray | memoryview
MAX_STRING = 4096
BAYER = re.compile(r"bayer_[a-z]{4}\d{1,2}(?=;)")
BUFFER_MARKER = (0xFFFF_FFFF, 0x524F_5332)
"""Begin of what replaces a `uint8[]` whose bytes are not in the message. From ROS 2 Lyrical on, a
backend of `rosidl::Buffer` sends only where they are (see Fast DDS's typesupport)."""


class CdrReader:
    """Reads one serialized message from front to back."""

    def __init__(self, data: Buffer, message: str) -> None:
        """Start behind the encapsulation header.

        Args:
            data: the serialized message.
            message: its type, for error texts.

        Raises:
            FrameRejected: the header is missing or not plain CDR.
        """
        self._data = memoryview(data).cast("B")
        self._message = message
        self._position = HEADER_SIZE
        if len(self._data) < HEADER_SIZE:
            raise FrameRejected(f"{message}: {len(self._data)} bytes are too few for a message")
        kind = bytes(self._data[:2])
        if kind not in (b"\x00\x00", b"\x00\x01"):
            raise FrameRejected(f"{message}: encapsulation 0x{kind.hex()} is not plain CDR")
        self._order = "<" if kind[1] else ">"

    def numbers(self, fmt: str) -> tuple[float, ...]:
        """Read numbers of one type, such as `9d` in the notation of `struct`, aligned."""
        size = struct.calcsize(fmt[-1])
        start = self._align(size)
        self._take(start, size * int(fmt[:-1] or 1))
        return struct.unpack_from(self._order + fmt, self._data, start)

    def uint32(self) -> int:
        """An unsigned 32-bit number."""
        return int(self.numbers("I")[0])

    def uint8(self) -> int:
        """A byte."""
        return int(self.numbers("B")[0])

    def string(self) -> str:
        """A string; its length in CDR includes the closing zero."""
        length = self.uint32()
        if length > MAX_STRING:
            raise FrameRejected(f"{self._message}: a string of {length} bytes is not believable")
        start = self._position
        self._take(start, length)
        return bytes(self._data[start : start + max(length - 1, 0)]).decode(errors="replace")

    def frame_id(self) -> str:
        """The frame_id of an image."""
        name = self.string()
        length = len(name.encode(errors="replace"))
        if length > FRAME_ID_BYTES:
            problem = f"{self._message}: a frame_id of {length} bytes, at most {FRAME_ID_BYTES}"
            raise FrameRejected(f"{problem} have room; give the camera a shorter one")
        return name

    def octets(self) -> memoryview:
        """A sequence of uint8, in place."""
        length = self.uint32()
        if length == BUFFER_MARKER[0]:
            self._refuse_descriptor()
        start = self._position
        self._take(start, length)
        return self._data[start : start + length]

    def stamp_ns(self) -> int:
        """A builtin_interfaces/Time."""
        seconds, nanoseconds = int(self.numbers("i")[0]), int(self.numbers("I")[0])
        if nanoseconds >= NS_PER_S:
            # Nanoseconds may carry into the seconds, and these may then exceed what a message can
            # hold.
            raise FrameRejected(f"{self._message}: a stamp of {nanoseconds} nanoseconds is none")
        return seconds * NS_PER_S + nanoseconds

    def _refuse_descriptor(self) -> None:
        if self.uint32() == BUFFER_MARKER[1]:
            raise FrameRejected(
                f"{self._message}: its bytes are in the memory of {self.string()!r}, and the "
                "message only says where; publish them from CPU memory"
            )

    def _align(self, size: int) -> int:
        behind = self._position - HEADER_SIZE
        return self._position + (-behind % size)

    def _take(self, start: int, size: int) -> None:
        if start + size > len(self._data):
            there = f"{start + size} bytes needed, {len(self._data)} there"
            raise FrameRejected(f"{self._message}: cut off, {there}")
        self._position = start + size


def read_image(data: Buffer) -> ImageView:
    """View a serialized `sensor_msgs/msg/Image`.

    Args:
        data: the message; the view refers to it.

    Raises:
        FrameRejected: cut off, or the sizes contradict each other, or its sender could not read it.
    """
    reader = CdrReader(data, "Image")
    stamp_ns, frame_id = reader.stamp_ns(), reader.frame_id()
    height, width = reader.uint32(), reader.uint32()
    encoding = reader.string()
    big_endian, step = reader.uint8(), reader.uint32()
    pixels = reader.octets()
    if encoding.startswith(NO_PICTURE):
        raise FrameRejected(encoding.removeprefix(NO_PICTURE))
    if not (0 < width <= 65535 and 0 < height <= 65535):
        raise FrameRejected(f"Image: size {width}x{height} is outside 1..65535")
    deep = encoding.lower() != "nv12" and any(bits in encoding for bits in ("10", "12", "14", "16"))
    if big_endian and deep:
        raise FrameRejected(
            f"Image: big-endian {encoding} is not supported; let the "
            "driver swap the bytes of each sample and clear is_bigendian"
        )
    return ImageView(stamp_ns, frame_id, width, height, encoding.lower(), step, pixels)


def read_compressed_image(data: Buffer) -> ImageView:
    """View a serialized `sensor_msgs/msg/CompressedImage`; only the file in it knows the size.

    Raises:
        FrameRejected: cut off, or neither JPEG nor PNG.
    """
    reader = CdrReader(data, "CompressedImage")
    stamp_ns, frame_id, name = reader.stamp_ns(), reader.frame_id(), reader.string()
    payload = reader.octets()
    # The format field is free text ("bgr8; jpeg compressed bgr8"); the file's magic number decides.
    # Only the format field says that a grey picture is a mosaic: "bayer_rggb8; jpeg compressed ".
    magic = bytes(payload[:8])
    if magic.startswith(b"\xff\xd8\xff"):
        encoding = "jpeg"
    elif magic == b"\x89PNG\r\n\x1a\n":
        encoding = "png"
    else:
        what = f"format {name!r} with {len(payload)} bytes"
        raise FrameRejected(f"CompressedImage: {what} is neither JPEG nor PNG")
    if mosaic := BAYER.match(name.lower()):
        encoding = f"{mosaic[0]}{MOSAIC_IN}{encoding}"
    return ImageView(stamp_ns, frame_id, 0, 0, encoding, 0, payload)


def read_compressed_video(data: Buffer) -> ImageView:
    """View a packet in a serialized `foxglove_msgs/msg/CompressedVideo`; encoding `h264` or `h265`.

    Raises:
        FrameRejected: cut off, or of another codec.
    """
    reader = CdrReader(data, "CompressedVideo")
    stamp_ns, frame_id, packet = reader.stamp_ns(), reader.frame_id(), reader.octets()
    return ImageView(stamp_ns, frame_id, 0, 0, _video_codec(reader.string()), 0, packet)


def read_ffmpeg_packet(data: Buffer) -> ImageView:
    """View a packet in an `ffmpeg_image_transport_msgs/msg/FFMPEGPacket`; see above.

    Raises:
        FrameRejected: cut off, or of another codec.
    """
    reader = CdrReader(data, "FFMPEGPacket")
    stamp_ns, frame_id = reader.stamp_ns(), reader.frame_id()
    reader.numbers("2i")  # skip width and height, which the stream has too
    # Such as "h264;yuv420p;bgr8;bgr8"; older versions give the name of the encoder, "hevc_nvenc".
    encoding = _video_codec(reader.string().partition(";")[0])
    reader.numbers("Q")  # skip the presentation time
    reader.uint8(), reader.uint8()  # skip flags and the byte order of high depths
    return ImageView(stamp_ns, frame_id, 0, 0, encoding, 0, reader.octets())


def _video_codec(name: str) -> str:
    for codec, names in (("h264", ("264",)), ("h265", ("265", "hevc"))):
        if any(one in name.lower() for one in names):
            return codec
    raise FrameRejected(f"video in {name!r} is not supported; encode it in H.264 or H.265")


def read_camera_info(data: Buffer) -> CameraInfo:
    """Read a serialized `sensor_msgs/msg/CameraInfo`, without R and P.

    Raises:
        FrameRejected: cut off.
    """
    reader = CdrReader(data, "CameraInfo")
    reader.stamp_ns()
    reader.string()
    height, width = reader.uint32(), reader.uint32()
    model = reader.string()
    count = reader.uint32()
    if count > 14:
        raise FrameRejected(f"CameraInfo: {count} distortion coefficients are not believable")
    distortion = reader.numbers(f"{count}d") if count else ()
    matrix = reader.numbers("9d")
    reader.numbers("21d")  # skip R and P
    across, down, left, top, region_height, region_width = (reader.uint32() for _ in range(6))
    region = left, top, region_width, region_height
    return CameraInfo(width, height, model, distortion, matrix, (across, down), region)


def read_header(data: Buffer) -> tuple[int, str]:
    """Stamp and frame_id of an image that cannot be read; 0 and empty if they cannot be read."""
    stamp_ns, frame_id = 0, ""
    with suppress(FrameRejected):
        reader = CdrReader(data, "stamped message")
        stamp_ns = reader.stamp_ns()
        frame_id = reader.frame_id()
    return stamp_ns, frame_id


def read_stamp(data: Buffer) -> int:
    """`header.stamp` of any stamped message, nanoseconds since the Unix epoch.

    Raises:
        FrameRejected: cut off, or not a time.
    """
    return CdrReader(data, "stamped message").stamp_ns()
