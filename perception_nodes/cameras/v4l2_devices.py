"""What the kernel's capture devices offer, and which of their modes to take."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from perception_nodes.cameras import v4l2_kernel as kernel
from perception_nodes.cameras.camera_source import CameraError

USUAL_SIZE = (1920, 1080)
USUAL_RATE_HZ = 30.0


@dataclass(frozen=True)
class Mode:
    """A format, size and rate that a device offers.

    Attributes:
        code: the kernel's four letters of the format.
        width, height: pixels.
        rate_hz: frames a second; 0 if the device states none.
        sizes: describes the range that the size is one of; empty if it is the only one.
    """

    code: bytes
    width: int
    height: int
    rate_hz: float
    sizes: str = ""

    @property
    def offered(self) -> str:
        """The size, or the range that it is one of."""
        return self.sizes or f"{self.width}x{self.height}"


@dataclass(frozen=True)
class DeviceControl:
    """A control of a device with its range; the kernel knows it by `identifier`."""

    name: str
    identifier: int
    minimum: int
    maximum: int
    default: int


@dataclass(frozen=True)
class CaptureDevice:
    """A capture device and what it offers.

    Attributes:
        path: such as `/dev/video0`.
        name: as its driver calls it.
        driver: name of the driver.
        modes: that can be asked for.
        controls: that can be set.
    """

    path: str
    name: str
    driver: str
    modes: list[Mode] = field(default_factory=list)
    controls: list[DeviceControl] = field(default_factory=list)


@dataclass(frozen=True)
class V4l2Settings:
    """Settings of a device; 0, empty or None leaves the choice to us or to the driver.

    Attributes:
        device: path.
        width, height: pixels.
        rate_hz: frames a second.
        pixel_format: the kernel's four letters, such as `NV12`.
        input: number of the input; -1 for the one that is chosen already.
        controls: values by name, such as `gain=20,exposure_time_absolute=100`.
        user_pointers: ask for them; without, frames are copied once.
    """

    device: str = ""
    width: int = 0
    height: int = 0
    rate_hz: float = 0.0
    pixel_format: str = ""
    input: int = -1
    controls: str = ""
    user_pointers: bool = True


def list_devices() -> list[CaptureDevice]:
    """All capture devices of this machine, with modes and controls."""
    found = []
    for path in sorted(glob.glob("/dev/video*"), key=lambda path: (len(path), path)):
        with suppress(OSError, CameraError):
            descriptor = kernel.open_device(path)
            try:
                what, kind = capability_of(descriptor, path)
                card, driver = (text.decode(errors="replace") for text in (what.card, what.driver))
                offered = [*modes_of(descriptor, kind)], [*controls_of(descriptor)]
                found.append(CaptureDevice(path, card, driver, *offered))
            finally:
                os.close(descriptor)
    return found


def choose_mode(modes: list[Mode], wanted: V4l2Settings) -> Mode:
    """The mode that comes nearest to what is wanted.

    By default that is the largest size up to 1920x1080 that comes 30 times a second, in the format
    that costs preprocessing least.

    Raises:
        CameraError: the device has no such mode; the text lists what it has.
    """
    fitting = [
        mode
        for mode in modes
        if mode.code in kernel.ENCODINGS
        and (not wanted.pixel_format or mode.code == wanted.pixel_format.encode())
        and (not wanted.width or mode.width == wanted.width)
        and (not wanted.height or mode.height == wanted.height)
    ]
    if not fitting:
        readable = [mode for mode in modes if mode.code in kernel.ENCODINGS]
        known = sorted({f"{kernel.letters(mode.code)} {mode.offered}" for mode in readable})
        others = sorted({kernel.letters(mode.code) for mode in modes if mode not in readable})
        text = (
            f"{wanted.device} has no mode {wanted.pixel_format or '(any format)'} "
            f"{wanted.width or '(any)'}x{wanted.height or '(any)'}; it has "
            f"{', '.join(known) or 'none that can be read'}"
        )
        if others:
            text += f"; its formats {', '.join(others)} need a gst: pipeline that converts them"
        raise CameraError(text)
    cheapest = list(kernel.ENCODINGS)

    def merit(mode: Mode) -> tuple[bool, bool, int, float, int]:
        usual = mode.width <= USUAL_SIZE[0] and mode.height <= USUAL_SIZE[1]
        area = mode.width * mode.height
        rate_hz = wanted.rate_hz or USUAL_RATE_HZ
        fast = not mode.rate_hz or mode.rate_hz > 0.9 * rate_hz
        nearest = -abs(mode.rate_hz - rate_hz)
        return fast, usual, area if usual else -area, nearest, -cheapest.index(mode.code)

    return max(fitting, key=merit)


def capability_of(descriptor: int, path: str) -> tuple[kernel.Capability, int]:
    """Name, driver and abilities of a device, and the type of its buffers.

    Raises:
        CameraError: it is no capture device that we can read.
    """
    capability = kernel.Capability()
    kernel.call(descriptor, kernel.QUERYCAP, capability)
    flags = capability.device_caps
    for can, kind in (
        (kernel.CAP_VIDEO_CAPTURE, kernel.BUF_TYPE_VIDEO_CAPTURE),
        (kernel.CAP_VIDEO_CAPTURE_MPLANE, kernel.BUF_TYPE_VIDEO_CAPTURE_MPLANE),
    ):
        if flags & can and flags & kernel.CAP_STREAMING:
            return capability, kind
    raise CameraError(f"{path} is no capture device that streams; use a gst: pipeline")


def given_format(descriptor: int, kind: int, request: int, **asked: Any) -> tuple[Any, Any]:
    """Ask for a format (`S_FMT`), or for the present one (`G_FMT`).

    Args:
        descriptor: of the device.
        kind: type of its buffers.
        request: which of both.
        asked: fields of the kernel's structure.

    Returns:
        The `Format` or `FormatOfPlanes`, and what has its `sizeimage` and `bytesperline`.
    """
    is_single = kind == kernel.BUF_TYPE_VIDEO_CAPTURE
    form: Any = (kernel.Format if is_single else kernel.FormatOfPlanes)(type=kind, **asked)
    kernel.call(descriptor, request, form)
    return form, form if is_single else form.planes[0]


def modes_of(descriptor: int, kind: int, wanted: tuple[int, int] = (0, 0)) -> Iterator[Mode]:
    """All modes; of a range of sizes, the wanted and the usual ones that it contains."""
    for form in kernel.enumerated(descriptor, kernel.ENUM_FMT, kernel.FormatDescription, type=kind):
        code = form.pixelformat
        is_listed = False
        for size in kernel.enumerated(
            descriptor, kernel.ENUM_FRAMESIZES, kernel.FrameSize, pixel_format=code
        ):
            is_listed = True
            sizes, described = _sizes(size, wanted)
            for width, height in sizes:
                at = {"pixel_format": code, "width": width, "height": height}
                intervals = kernel.enumerated(
                    descriptor, kernel.ENUM_FRAMEINTERVALS, kernel.FrameInterval, **at
                )
                rates = [one.denominator / max(one.numerator, 1) for one in intervals]
                for rate_hz in rates or [0.0]:
                    yield Mode(code, width, height, rate_hz, described)
            if size.type != kernel.FRMSIZE_TYPE_DISCRETE:
                break
        if not is_listed:  # such as a grabber, whose size is that of the signal
            given, _ = given_format(descriptor, kind, kernel.G_FMT)
            for width, height in {(given.width, given.height), wanted} - {(0, 0)}:
                yield Mode(code, width or given.width, height or given.height, 0.0)


def _sizes(
    size: kernel.FrameSize, wanted: tuple[int, int]
) -> tuple[Iterable[tuple[int, int]], str]:
    """The sizes to offer, each once, and the description of the range that they are of."""
    if size.type == kernel.FRMSIZE_TYPE_DISCRETE:
        return [(size.range[0], size.range[1])], ""
    low_x, high_x, step_x, low_y, high_y, step_y = size.range
    usual = [(640, 360), (640, 480), (1280, 720), (1280, 960), (1920, 1080), (1920, 1280)]
    fitting = [
        (x, y)
        for x, y in (wanted, *usual)
        if x and y
        if low_x <= x <= high_x and low_y <= y <= high_y
        if (x - low_x) % max(step_x, 1) == 0 and (y - low_y) % max(step_y, 1) == 0
    ]
    described = f"{low_x}x{low_y} to {high_x}x{high_y} in steps of {step_x}x{step_y}"
    return dict.fromkeys([*fitting, (high_x, high_y)]), described


def controls_of(descriptor: int) -> Iterator[DeviceControl]:
    """All controls of a number that can be set."""
    entry = kernel.QueryControl(id=kernel.CTRL_FLAG_NEXT_CTRL)
    while True:
        try:
            kernel.call(descriptor, kernel.QUERYCTRL, entry)
        except OSError:
            return
        unusable = kernel.CTRL_FLAG_DISABLED | kernel.CTRL_FLAG_READ_ONLY
        if entry.type in kernel.CTRL_TYPES_SET and not entry.flags & unusable:
            name = re.sub(r"[^a-z0-9]+", "_", entry.name.decode(errors="replace").lower())
            numbers = entry.id, entry.minimum, entry.maximum, entry.default_value
            yield DeviceControl(name.strip("_"), *numbers)
        entry = kernel.QueryControl(id=entry.id | kernel.CTRL_FLAG_NEXT_CTRL)


def set_controls(descriptor: int, device: str, text: str) -> None:
    """Set controls, and turn off what would set them automatically.

    Args:
        descriptor: of the device.
        device: its name.
        text: `NAME=VALUE,...`.

    Raises:
        CameraError: one is not there, its value is out of range, or the device has not taken it.
    """
    if not text:
        return
    known = {one.name: one for one in controls_of(descriptor)}
    wanted: dict[int, tuple[str, int]] = {}
    for name, _, number in (one.partition("=") for one in text.split(",")):
        control, value = known.get(name), int(number)
        if control is None:
            raise CameraError(f"{device} has no control {name!r}; it has {', '.join(known)}")
        if not control.minimum <= value <= control.maximum:
            limits = f"from {control.minimum} to {control.maximum}"
            raise CameraError(f"{device}: {name} must be {limits}, and not {value}")
        wanted[control.identifier] = name, value
    there = {one.identifier: one.name for one in known.values()}
    switches = (kernel.AUTOMATIC[one] for one in wanted if one in kernel.AUTOMATIC)
    off = {one: (there[one], value) for one, value in switches if one in there}
    for identifier, (name, value) in (off | wanted).items():
        setting = kernel.Control(identifier, value)
        try:
            kernel.call(descriptor, kernel.S_CTRL, setting)
            kernel.call(descriptor, kernel.G_CTRL, setting)
        except OSError as error:
            raise CameraError(f"{device}: {name} cannot be set: {error.strerror}") from error
        if setting.value != value:
            raise CameraError(f"{device}: {name} was set to {value}, and is {setting.value}")
