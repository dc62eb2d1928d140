"""A camera as a shared library, for the C and C++ interfaces of cameras' makers.

`interfaces/camera/perception_camera.h` declares its functions; the library writes each frame into
the slot that preprocessing reads.
"""

import ctypes
import signal
from pathlib import Path
from typing import Any

from perception_nodes.cameras import camera_source
from perception_nodes.cameras.channel import CameraHeader, monotonic_us
from perception_nodes.core.structures import fields
from perception_nodes.transport.shm import Sample, Writer

VERSION = 1
BLOCKED_S = 5.0
"""The process ends if the library takes so much longer than the timeout that it is given."""
FRAME, TIMEOUT, GONE = 1, 0, -1
HEADER_FILE = "interfaces/camera/perception_camera.h"


class LibraryFormat(ctypes.Structure):
    """`PerceptionCameraFormat` of the header."""

    _fields_ = fields(
        "char encoding[32]; uint32 width, height, step, size_bytes; double rate_hz; char error[256]"
    )


class LibrarySource:
    """A library's camera, see `CameraSource`."""

    _slots: Writer[CameraHeader]
    """Of the channel; from `start` on."""

    def __init__(self, text: str) -> None:
        """Take `PATH` or `PATH:ARGUMENT`; nothing is loaded."""
        path, _, self._argument = text.partition(":")
        self._path = Path(path)
        self._library: Any = None
        self._camera: int | None = None
        self._format = LibraryFormat()
        self._lent: Sample[CameraHeader] | None = None

    def open(self) -> camera_source.CameraFormat:
        """Load the library and open its camera, see `CameraSource`."""
        self.close()
        if self._library is None:
            self._library = self._loaded()
        found = self._format = LibraryFormat()
        argument = self._argument.encode()
        self._camera = self._library.perception_camera_open(argument, ctypes.byref(found))
        if not self._camera:
            error = found.error.decode(errors="replace")
            raise camera_source.CameraGone(error or f"{self._path} gives no camera")
        width, height = found.width, found.height
        self._layout = found.encoding.decode(errors="replace"), width, height, found.step
        what = f"{self._layout[0]} {width}x{height} at {found.rate_hz:g} Hz"
        return camera_source.CameraFormat(found.size_bytes, f"{self._path}, {what}, no copy")

    def _loaded(self) -> Any:
        try:
            library, pointer = ctypes.CDLL(str(self._path.resolve())), ctypes.c_void_p
            version = int(library.perception_camera_version())
            library.perception_camera_open.restype = pointer
            library.perception_camera_capture.argtypes = [*[pointer] * 3, ctypes.c_uint32]
            library.perception_camera_close.argtypes = [pointer]
            library.perception_camera_close.restype = None
        except (OSError, AttributeError) as error:
            why = f"{error}; {HEADER_FILE} says what one has"
            raise camera_source.CameraError(f"{self._path} is no camera library: {why}") from error
        if version != VERSION:
            made = f"{self._path} was compiled with version {version} of {HEADER_FILE}"
            raise camera_source.CameraError(f"{made}, this is version {VERSION}; compile it again")
        return library

    def start(self, slots: Writer[CameraHeader]) -> None:
        """Fill these slots from now on, see `CameraSource`."""
        self._slots = slots

    def capture(self, timeout_ms: float) -> camera_source.CapturedFrame | None:
        """The next frame, see `CameraSource`."""
        size_bytes = self._format.size_bytes
        sample = self._lent = self._lent or self._slots.loan(size_bytes)
        header = sample.header
        header.describe(0, *self._layout, size_bytes)
        header.lost = header.filled_us = 0  # the library may set them
        # Nothing can interrupt a library that waits for ever, so SIGALRM ends the process.
        signal.setitimer(signal.ITIMER_REAL, timeout_ms / 1e3 + BLOCKED_S)
        try:
            pixels, at = sample.payload.ctypes.data, ctypes.addressof(header)
            wait_ms = max(0, round(timeout_ms))
            result = self._library.perception_camera_capture(self._camera, pixels, at, wait_ms)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if result == TIMEOUT:
            return None
        if result == GONE:
            raise camera_source.CameraGone(f"{self._path}: the camera is gone")
        if result != FRAME:
            raise camera_source.CameraError(f"{self._path}: the camera failed")
        self._lent = None
        header.filled_us = header.filled_us or monotonic_us()
        return camera_source.CapturedFrame(sample, header.lost)

    def close(self) -> None:
        """Close the camera, see `CameraSource`; the library stays loaded."""
        if self._camera:
            self._library.perception_camera_close(self._camera)
        self._camera = None
        if self._lent is not None:
            self._lent.release()
            self._lent = None
