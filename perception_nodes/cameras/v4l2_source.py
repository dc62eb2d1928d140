"""Cameras of the kernel (Video4Linux): the driver writes frames into the slots that are sent.

The buffers are user pointers into loaned shared memory, so that no frame is copied between the
camera's DMA and preprocessing. A driver that refuses user pointers is read through `mmap`, with one
copy, which is counted.
"""

import ctypes
import errno
import mmap
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from perception_nodes.cameras import v4l2_devices as devices
from perception_nodes.cameras import v4l2_kernel as kernel
from perception_nodes.cameras.camera_source import (
    CameraError,
    CameraFormat,
    CameraGone,
    CapturedFrame,
    colour_note,
)
from perception_nodes.cameras.channel import CameraHeader
from perception_nodes.transport.shm import Sample, Writer

BUFFERS = 4
"""The driver fills one, one is next, and two last while this process does not run."""


class V4l2Source:
    """A camera of the kernel, see `CameraSource`."""

    _slots: Writer[CameraHeader]
    """Of the channel; from `start` on."""

    def __init__(self, settings: devices.V4l2Settings) -> None:
        """Take what is wanted; nothing is opened."""
        self._settings = settings
        self._descriptor, self._kind = -1, kernel.BUF_TYPE_VIDEO_CAPTURE
        self._input: int | None = None
        self._use_pointers = False
        self._lent: dict[int, Sample[CameraHeader]] = {}
        self._mapped: list[mmap.mmap] = []
        self._next_sequence: int | None = None
        self._lost = 0

    def open(self) -> CameraFormat:
        """Open the device and agree on a format, see `CameraSource`."""
        self.close()
        path = self._settings.device
        try:
            self._descriptor = kernel.open_device(path)
        except FileNotFoundError as error:
            known = ", ".join(device.path for device in devices.list_devices()) or "none"
            raise CameraGone(f"{path} is not there; devices are: {known}") from error
        except PermissionError as error:
            raise CameraError(f"{path} may not be opened; add the user to group video") from error
        except OSError as error:
            raise CameraGone(f"{path} cannot be opened: {error.strerror}") from error
        with self._asking_for("a format"):
            capability, self._kind = devices.capability_of(self._descriptor, path)
            self._take_signal()
            return self._agree(capability)

    def set_controls(self, text: str) -> None:
        """Set controls, now and whenever the device is opened; see `v4l2_devices.set_controls`."""
        if self._descriptor >= 0:
            devices.set_controls(self._descriptor, self._settings.device, text)
        self._settings = replace(self._settings, controls=text)

    def _take_signal(self) -> None:
        """Choose the input, and take over the timing of its signal."""
        number, device = ctypes.c_int32(self._settings.input), self._settings.device
        try:
            request = kernel.G_INPUT if number.value < 0 else kernel.S_INPUT
            kernel.call(self._descriptor, request, number)
        except OSError as error:
            if self._settings.input < 0:
                self._input = None  # it has no inputs
                return
            inputs = kernel.enumerated(self._descriptor, kernel.ENUMINPUT, kernel.Input)
            known = ", ".join(f"{one.index} ({one.name.decode()})" for one in inputs)
            why = f"cannot be chosen ({error.strerror}); it has {known or 'none'}"
            raise CameraError(f"{device}: input {number.value} {why}") from error
        self._input = number.value
        if self._check_signal() & kernel.IN_CAP_DV_TIMINGS:
            timings = kernel.Timings()
            try:
                kernel.call(self._descriptor, kernel.QUERY_DV_TIMINGS, timings)
                kernel.call(self._descriptor, kernel.S_DV_TIMINGS, timings)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise
                cannot = f"the timing of its signal cannot be taken ({error.strerror})"
                reason = "no signal" if error.errno == errno.ENOLINK else cannot
                raise CameraGone(f"{device}: {reason} on input {self._input}") from error

    def _check_signal(self) -> int:
        """The abilities of the input.

        Raises:
            CameraGone: it has no signal, so that its pictures are none.
        """
        if self._input is None:
            return 0
        found = kernel.Input(index=self._input)
        kernel.call(self._descriptor, kernel.ENUMINPUT, found)
        lacks = [text for bit, text in kernel.IN_STATUS.items() if found.status & bit]
        if lacks:
            place = f"input {self._input} ({found.name.decode(errors='replace')})"
            raise CameraGone(f"{self._settings.device}: {', '.join(lacks)} on {place}")
        return int(found.capabilities)

    def _agree(self, capability: kernel.Capability) -> CameraFormat:
        wanted, path = self._settings, self._settings.device
        size = wanted.width, wanted.height
        modes = list(devices.modes_of(self._descriptor, self._kind, size))
        mode = devices.choose_mode(modes, wanted)
        given, plane = self._set_format(mode)
        code = given.pixelformat
        for name, asked, got in (
            ("format", kernel.letters(mode.code), kernel.letters(code)),
            ("width", wanted.width or given.width, given.width),
            ("height", wanted.height or given.height, given.height),
        ):
            if asked != got:
                raise CameraError(f"{path}: {name} {asked} was asked for, the driver gives {got}")
        rate_hz = self._set_rate(wanted.rate_hz or mode.rate_hz)
        devices.set_controls(self._descriptor, path, wanted.controls)
        change = kernel.EventSubscription(type=kernel.EVENT_SOURCE_CHANGE, id=self._input or 0)
        with suppress(OSError):  # few devices know this event
            kernel.call(self._descriptor, kernel.SUBSCRIBE_EVENT, change)
        encoding = kernel.ENCODINGS[code]
        self._field, self._size_bytes = given.field, plane.sizeimage
        self._use_pointers = wanted.user_pointers and self._takes_pointers()
        step = 0 if encoding == "jpeg" else plane.bytesperline
        self._frame = encoding, given.width, given.height, step
        loaned, way = 2, "mmap, one copy"
        if self._use_pointers:
            loaned, way = BUFFERS + 1, "user pointers, no copy"
        description = (
            f"{path} ({capability.card.decode(errors='replace')}), {code.decode()} {given.width}x"
            f"{given.height} at {rate_hz:g} Hz, {way}, stamps are of {self._stamped()}"
            f"{colour_note(encoding, *_colours(given))}"
        )
        if given.field in kernel.INTERLACED:
            description += "; it is interlaced: what moves is torn into rows of two instants"
        return CameraFormat(plane.sizeimage, description, loaned)

    def _stamped(self) -> str:
        """What the driver's stamps are of, in words."""
        buffer = kernel.Buffer()
        with suppress(OSError):
            self._request(1, kernel.MEMORY_MMAP)
            buffer, _ = self._buffer(0, kernel.MEMORY_MMAP)
            kernel.call(self._descriptor, kernel.QUERYBUF, buffer)
            self._request(0, kernel.MEMORY_MMAP)
        if buffer.flags & kernel.BUF_FLAG_TIMESTAMP_MASK != kernel.BUF_FLAG_TIMESTAMP_MONOTONIC:
            return "receipt"
        is_soe = buffer.flags & kernel.BUF_FLAG_TSTAMP_SRC_SOE
        return "the start of exposure" if is_soe else "the end of a frame"

    def _set_format(self, mode: devices.Mode) -> tuple[Any, Any]:
        """Ask for a mode in whole pictures; returns what the driver gives, see `given_format`."""
        # Some grabbers give whole pictures of an analog camera only if asked for interlaced ones.
        for field in (kernel.FIELD_NONE, kernel.FIELD_INTERLACED):
            size = {"width": mode.width, "height": mode.height}
            asked = size | {"pixelformat": mode.code, "field": field}
            given, plane = devices.given_format(self._descriptor, self._kind, kernel.S_FMT, **asked)
            if given.field not in kernel.NOT_WHOLE:
                return given, plane
        what = f"{self._settings.device} gives fields ({kernel.NOT_WHOLE[given.field]})"
        raise CameraError(f"{what}, not whole pictures; use a gst: pipeline that deinterlaces them")

    def _set_rate(self, rate_hz: float) -> float:
        """Ask for a rate; returns the one that the driver gives, 0 if it states none."""
        parameters = kernel.StreamParameters(type=self._kind)
        try:
            kernel.call(self._descriptor, kernel.G_PARM, parameters)
        except OSError:
            return 0.0
        if rate_hz and parameters.capability & kernel.CAP_TIMEPERFRAME:
            parameters.numerator, parameters.denominator = 1000, round(rate_hz * 1000)
            kernel.call(self._descriptor, kernel.S_PARM, parameters)
        return parameters.denominator / parameters.numerator if parameters.numerator else 0.0

    def _takes_pointers(self) -> bool:
        """Whether the driver can write into our memory."""
        try:
            self._request(BUFFERS, kernel.MEMORY_USERPTR)
            self._request(0, kernel.MEMORY_USERPTR)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise
            return False
        return True

    def start(self, slots: Writer[CameraHeader]) -> None:
        """Give the driver its buffers and start, see `CameraSource`."""
        self._slots = slots
        with self._asking_for("streaming"):
            if self._use_pointers:
                self._request(BUFFERS, kernel.MEMORY_USERPTR)
            else:
                for index in range(self._request(BUFFERS, kernel.MEMORY_MMAP)):
                    buffer, plane = self._buffer(index)
                    kernel.call(self._descriptor, kernel.QUERYBUF, buffer)
                    size, at = plane.length, plane.memory_at & 0xFFFFFFFF
                    self._mapped.append(mmap.mmap(self._descriptor, size, offset=at))
            for index in range(len(self._mapped) or BUFFERS):
                self._queue(index)
            kernel.stream(self._descriptor, kernel.STREAMON, self._kind)
        self._next_sequence = None
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN | select.POLLPRI)

    def capture(self, timeout_ms: float) -> CapturedFrame | None:
        """The next frame, see `CameraSource`."""
        events = self._poll.poll(timeout_ms)
        with self._asking_for("its input's status"):
            try:
                self._check_signal()
            except CameraGone:
                self._lost += bool(events and events[0][1] & select.POLLIN)  # none is in it
                raise
        if not events:
            return None
        if events[0][1] & select.POLLPRI:
            self._read_event()
        buffer, plane = self._buffer(0)
        with self._asking_for("a frame"):
            try:
                kernel.call(self._descriptor, kernel.DQBUF, buffer)
            except BlockingIOError:
                return None
        self._lost += self._gap(buffer.sequence)
        if buffer.flags & kernel.BUF_FLAG_ERROR or not plane.bytesused:
            self._lost += 1  # its pixels are not whole
            self._queue(buffer.index)
            return None  # rather than wait for the next one: all may be like this
        is_torn = buffer.field in kernel.INTERLACED and self._field not in kernel.INTERLACED
        if is_torn or (buffer.field and buffer.field in kernel.NOT_WHOLE):
            self._lost += 1
            raise CameraGone(f"{self._settings.device} now gives interlaced pictures or fields")
        sample = self._filled(buffer.index, plane.bytesused)
        sample.header.describe(self._stamp_ns(buffer), *self._frame, plane.bytesused)
        # This includes those before a call that ended without a frame.
        lost, self._lost = self._lost, 0
        return CapturedFrame(sample, lost)

    def _filled(self, index: int, size: int) -> Sample[CameraHeader]:
        """The slot with the frame of a buffer, which goes back to the driver."""
        if self._use_pointers:
            sample = self._lent.pop(index)
        else:
            sample = self._slots.loan(self._size_bytes)
            sample.payload[:size] = np.frombuffer(self._mapped[index], np.uint8, size)
        self._queue(index)
        return sample

    def _queue(self, index: int) -> None:
        """Give a buffer to the driver; with user pointers it is a loaned slot."""
        buffer, plane = self._buffer(index)
        if self._use_pointers:
            if index not in self._lent:
                self._lent[index] = self._slots.loan(self._size_bytes)
            plane.memory_at = self._lent[index].payload.ctypes.data
            plane.length = self._size_bytes
        with self._asking_for("a buffer"):
            kernel.call(self._descriptor, kernel.QBUF, buffer)

    def _gap(self, sequence: int) -> int:
        """Number of frames that the sensor counted and we did not get."""
        expected = sequence if self._next_sequence is None else self._next_sequence
        self._next_sequence = (sequence + 1) & 0xFFFFFFFF
        gap = (sequence - expected) & 0xFFFFFFFF
        return gap if gap < 1 << 31 else 0  # else the driver counts anew

    def _stamp_ns(self, buffer: kernel.Buffer) -> int:
        """The wall clock at capture: the driver's stamp, or now if its clock is unknown."""
        now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        if buffer.flags & kernel.BUF_FLAG_TIMESTAMP_MASK != kernel.BUF_FLAG_TIMESTAMP_MONOTONIC:
            return wall_ns
        taken_ns = int(buffer.timestamp_s) * 1_000_000_000 + int(buffer.timestamp_us) * 1_000
        return wall_ns - (now_ns - taken_ns)

    def _read_event(self) -> None:
        event = kernel.Event()
        with suppress(OSError):
            kernel.call(self._descriptor, kernel.DQEVENT, event)
            if event.type == kernel.EVENT_SOURCE_CHANGE:
                raise CameraGone(f"{self._settings.device} now gives frames of another format")

    def _buffer(self, index: int, memory: int = 0) -> tuple[kernel.Buffer, Any]:
        """A buffer to ask for, and where its memory is stated: its plane, or itself."""
        way = kernel.MEMORY_USERPTR if self._use_pointers else kernel.MEMORY_MMAP
        buffer = kernel.Buffer(index=index, type=self._kind, memory=memory or way)
        if self._kind == kernel.BUF_TYPE_VIDEO_CAPTURE:
            return buffer, buffer
        plane = kernel.Plane()
        buffer.memory_at, buffer.length = ctypes.addressof(plane), 1
        return buffer, plane

    def _request(self, count: int, memory: int) -> int:
        wanted = kernel.RequestBuffers(count=count, type=self._kind, memory=memory)
        kernel.call(self._descriptor, kernel.REQBUFS, wanted)
        return int(wanted.count)

    @contextmanager
    def _asking_for(self, what: str) -> Iterator[None]:
        """Raise a `CameraError` if the driver refuses what it is asked for."""
        try:
            yield
        except OSError as error:
            device = self._settings.device
            if error.errno == errno.EBUSY:
                raise CameraError(f"{device} is used by another process; end that one") from error
            gone = error.errno in (errno.ENODEV, errno.EIO, errno.ENXIO)
            kind = CameraGone if gone else CameraError
            raise kind(f"{device}: the driver refuses {what}: {error.strerror}") from error

    def close(self) -> None:
        """Stop and give everything back, see `CameraSource`."""
        if self._descriptor < 0:
            return
        # Closing stops the driver's DMA before the slots that it writes to are given back.
        with suppress(OSError):
            kernel.stream(self._descriptor, kernel.STREAMOFF, self._kind)
        for mapped in self._mapped:
            mapped.close()
        os.close(self._descriptor)
        self._descriptor = -1
        for sample in self._lent.values():
            sample.release()
        self._mapped, self._lent = [], {}


def _colours(given: Any) -> tuple[str, bool]:
    """Name of the YUV matrix, empty if none is stated, and whether the range is full."""
    matrix = kernel.MATRICES.get(given.ycbcr_enc) or kernel.USUAL_MATRICES.get(given.colorspace, "")
    is_jpeg = not given.quantization and given.colorspace == kernel.COLORSPACE_JPEG
    return matrix, is_jpeg or given.quantization == kernel.FULL_RANGE
