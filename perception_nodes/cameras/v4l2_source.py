"""Cameras of the kernel (Video4Linux): the driver writes frames into the slots that are sent.

The buffers are user pointers into loaned shared memory, so that no frame is copied between the
camera's DMA and preprocessing. A driver that refuses user pointers is read through `mmap`, with one
copy, which is counted.
"""

import errno
import mmap
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

from perception_nodes.cameras import v4l2_kernel as kernel
from perception_nodes.cameras.camera_source import (
    CameraError,
    CameraFormat,
    CameraGone,
    CapturedFrame,
    colour_note,
)
from perception_nodes.cameras.channel import CameraHeader
from perception_nodes.cameras.v4l2_devices import (
    Mode,
    V4l2Settings,
    capability_of,
    choose_mode,
    list_devices,
    modes_of,
)
from perception_nodes.transport.shm import Sample, Writer

BUFFERS = 4
"""The driver fills one, one is next, and two last while this process does not run."""


class V4l2Source:
    """A camera of the kernel, see `CameraSource`."""

    def __init__(self, settings: V4l2Settings) -> None:
        """Take what is wanted; nothing is opened."""
        self._settings = settings
        self._descriptor = -1
        self._use_pointers = False
        self._slots: Writer[CameraHeader] | None = None
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
            known = ", ".join(device.path for device in list_devices()) or "none"
            raise CameraGone(f"{path} is not there; devices are: {known}") from error
        except PermissionError as error:
            raise CameraError(f"{path} may not be opened; add the user to group video") from error
        except OSError as error:
            raise CameraGone(f"{path} cannot be opened: {error.strerror}") from error
        with self._asking_for("a format"):
            return self._agree(capability_of(self._descriptor, path))

    def _agree(self, capability: kernel.Capability) -> CameraFormat:
        wanted, path = self._settings, self._settings.device
        mode = choose_mode(list(modes_of(self._descriptor, (wanted.width, wanted.height))), wanted)
        given = self._set_format(mode)
        code = given.pixelformat
        for name, asked, got in (
            ("format", kernel.letters(mode.code), kernel.letters(code)),
            ("width", wanted.width or given.width, given.width),
            ("height", wanted.height or given.height, given.height),
        ):
            if asked != got:
                raise CameraError(f"{path}: {name} {asked} was asked for, the driver gives {got}")
        rate_hz = self._set_rate(wanted.rate_hz or mode.rate_hz)
        self._set_controls()
        change = kernel.EventSubscription(type=kernel.EVENT_SOURCE_CHANGE)
        with suppress(OSError):  # few devices know this event
            kernel.call(self._descriptor, kernel.SUBSCRIBE_EVENT, change)
        encoding = kernel.ENCODINGS[code]
        self._format = given
        self._use_pointers = wanted.user_pointers and self._takes_pointers()
        step = 0 if encoding == "jpeg" else given.bytesperline
        self._frame = encoding, given.width, given.height, step
        loaned, way = 2, "mmap, one copy"
        if self._use_pointers:
            loaned, way = BUFFERS + 1, "user pointers, no copy"
        description = (
            f"{path} ({capability.card.decode(errors='replace')}), {code.decode()} {given.width}x"
            f"{given.height} at {rate_hz:g} Hz, {way}{colour_note(encoding, *_colours(given))}"
        )
        return CameraFormat(given.sizeimage, description, loaned)

    def _set_format(self, mode: Mode) -> kernel.Format:
        """Ask for a mode in whole pictures; returns what the driver gives."""
        # Some grabbers give whole pictures of an analog camera only if asked for interlaced ones.
        for field in (kernel.FIELD_NONE, kernel.FIELD_INTERLACED):
            given = kernel.Format(
                type=kernel.BUF_TYPE_VIDEO_CAPTURE,
                width=mode.width,
                height=mode.height,
                pixelformat=mode.code,
                field=field,
            )
            kernel.call(self._descriptor, kernel.S_FMT, given)
            if given.field not in kernel.NOT_WHOLE:
                return given
        raise CameraError(
            f"{self._settings.device} gives fields ({kernel.NOT_WHOLE[given.field]}), not whole "
            "pictures; use a gst: pipeline that deinterlaces them"
        )

    def _set_rate(self, rate_hz: float) -> float:
        """Ask for a rate; returns the one that the driver gives, 0 if it states none."""
        parameters = kernel.StreamParameters(type=kernel.BUF_TYPE_VIDEO_CAPTURE)
        try:
            kernel.call(self._descriptor, kernel.G_PARM, parameters)
        except OSError:
            return 0.0
        if rate_hz and parameters.capability & kernel.CAP_TIMEPERFRAME:
            parameters.numerator, parameters.denominator = 1000, round(rate_hz * 1000)
            kernel.call(self._descriptor, kernel.S_PARM, parameters)
        return parameters.denominator / parameters.numerator if parameters.numerator else 0.0

    def _set_controls(self) -> None:
        wanted = self._settings
        values = []
        if wanted.exposure_us is not None:
            values.append((kernel.CID_EXPOSURE_AUTO, kernel.EXPOSURE_MANUAL, "manual exposure"))
            # The kernel counts in units of 100 us.
            ticks = max(1, round(wanted.exposure_us / 100))
            values.append((kernel.CID_EXPOSURE_ABSOLUTE, ticks, "exposure_us"))
        if wanted.gain is not None:
            values.append((kernel.CID_GAIN, wanted.gain, "gain"))
        for identifier, value, name in values:
            try:
                kernel.call(self._descriptor, kernel.S_CTRL, kernel.Control(identifier, value))
            except OSError as error:
                raise CameraError(
                    f"{wanted.device}: {name} cannot be set ({error.strerror}); "
                    "`perception camera --list` shows the controls of a device"
                ) from error

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
                    buffer = self._buffer(index)
                    kernel.call(self._descriptor, kernel.QUERYBUF, buffer)
                    size, at = buffer.length, buffer.memory_at
                    self._mapped.append(mmap.mmap(self._descriptor, size, offset=at))
            for index in range(len(self._mapped) or BUFFERS):
                self._queue(index)
            kernel.stream(self._descriptor, kernel.STREAMON)
        self._next_sequence = None
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN | select.POLLPRI)

    def capture(self, timeout_ms: float) -> CapturedFrame | None:
        """The next frame, see `CameraSource`."""
        events = self._poll.poll(timeout_ms)
        if not events:
            return None
        if events[0][1] & select.POLLPRI:
            self._read_event()
        buffer = self._buffer(0)
        with self._asking_for("a frame"):
            try:
                kernel.call(self._descriptor, kernel.DQBUF, buffer)
            except BlockingIOError:
                return None
        self._lost += self._gap(buffer.sequence)
        if buffer.flags & kernel.BUF_FLAG_ERROR or not buffer.bytesused:
            self._lost += 1  # its pixels are not whole
            self._queue(buffer.index)
            return None  # rather than wait for the next one: all may be like this
        sample = self._filled(buffer.index, buffer.bytesused)
        sample.header.describe(self._stamp_ns(buffer), *self._frame, buffer.bytesused)
        # This includes those before a call that ended without a frame.
        lost, self._lost = self._lost, 0
        return CapturedFrame(sample, lost)

    def _filled(self, index: int, size: int) -> Sample[CameraHeader]:
        """The slot with the frame of a buffer, which goes back to the driver."""
        assert self._slots is not None
        if self._use_pointers:
            sample = self._lent.pop(index)
        else:
            sample = self._slots.loan(self._format.sizeimage)
            sample.payload[:size] = np.frombuffer(self._mapped[index], np.uint8, size)
        self._queue(index)
        return sample

    def _queue(self, index: int) -> None:
        """Give a buffer to the driver; with user pointers it is a loaned slot."""
        buffer = self._buffer(index)
        if self._use_pointers:
            assert self._slots is not None
            if index not in self._lent:
                self._lent[index] = self._slots.loan(self._format.sizeimage)
            buffer.memory_at = self._lent[index].payload.ctypes.data
            buffer.length = self._format.sizeimage
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
        kind = buffer.flags & kernel.BUF_FLAG_TIMESTAMP_MASK
        if kind != kernel.BUF_FLAG_TIMESTAMP_MONOTONIC:
            return wall_ns
        taken_ns = int(buffer.timestamp_s) * 1_000_000_000 + int(buffer.timestamp_us) * 1_000
        return wall_ns - (now_ns - taken_ns)

    def _read_event(self) -> None:
        event = kernel.Event()
        with suppress(OSError):
            kernel.call(self._descriptor, kernel.DQEVENT, event)
            if event.type == kernel.EVENT_SOURCE_CHANGE:
                raise CameraGone(f"{self._settings.device} now gives frames of another format")

    def _buffer(self, index: int) -> kernel.Buffer:
        memory = kernel.MEMORY_USERPTR if self._use_pointers else kernel.MEMORY_MMAP
        return kernel.Buffer(index=index, type=kernel.BUF_TYPE_VIDEO_CAPTURE, memory=memory)

    def _request(self, count: int, memory: int) -> int:
        wanted = kernel.RequestBuffers(
            count=count, type=kernel.BUF_TYPE_VIDEO_CAPTURE, memory=memory
        )
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
                text = f"{device} is used by another process; end that one"
                raise CameraError(text) from error
            gone = error.errno in (errno.ENODEV, errno.EIO, errno.ENXIO)
            kind = CameraGone if gone else CameraError
            raise kind(f"{device}: the driver refuses {what}: {error.strerror}") from error

    def close(self) -> None:
        """Stop and give everything back, see `CameraSource`."""
        if self._descriptor < 0:
            return
        # Closing stops the driver's DMA before the slots that it writes to are given back.
        with suppress(OSError):
            kernel.stream(self._descriptor, kernel.STREAMOFF)
        for mapped in self._mapped:
            mapped.close()
        os.close(self._descriptor)
        self._descriptor = -1
        for sample in self._lent.values():
            sample.release()
        self._mapped, self._lent, self._slots = [], {}, None


def _colours(given: kernel.Format) -> tuple[str, bool]:
    """Name of the YUV matrix, empty if none is stated, and whether the range is full."""
    matrix = kernel.MATRICES.get(given.ycbcr_enc) or kernel.USUAL_MATRICES.get(given.colorspace, "")
    is_jpeg = not given.quantization and given.colorspace == kernel.COLORSPACE_JPEG
    return matrix, is_jpeg or given.quantization == kernel.FULL_RANGE
