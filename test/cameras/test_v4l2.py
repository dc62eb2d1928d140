"""Drivers that are not at hand elsewhere; all else of V4L2 is for `make camera-test`."""

import errno

import pytest

from perception_nodes.cameras import v4l2_kernel as kernel
from perception_nodes.cameras import v4l2_source as v4l2
from perception_nodes.cameras.camera_source import CameraError, colour_note
from perception_nodes.cameras.v4l2_devices import Mode, V4l2Settings, choose_mode


@pytest.mark.parametrize(
    ("facts", "states"),
    [
        ({}, ""),
        ({"colorspace": 8}, ""),  # sRGB, as webcams have it
        ({"ycbcr_enc": 1, "colorspace": 3, "quantization": 2}, ""),
        ({"ycbcr_enc": 2}, "BT.709"),
        ({"colorspace": 3}, "BT.709"),
        ({"colorspace": 7}, "full range"),
        ({"ycbcr_enc": 6, "quantization": 1}, "BT.2020 in full range"),
    ],
)
def test_colours_other_than_those_that_are_read_are_noted(facts, states):
    note = colour_note("yuyv", *v4l2._colours(kernel.Format(**facts)))
    assert note == (f"; it states {states}, and is read as BT.601 in limited range" * bool(states))
    assert not colour_note("bgr8", "BT.709", True)


@pytest.mark.parametrize(
    ("codes", "asked", "said"),
    [
        ((b"H264",), "", "has none that can be read; its formats H264 need a gst: pipeline"),
        ((b"", b"A"), "", "has none that can be read; its formats ----, A--- need"),
        ((b"H264", b"Z16 "), "H264", "has none that can be read; its formats H264, Z16  need"),
        ((b"NV12", b"Y16\xa0"), "UYVY", "has NV12 640x480; its formats Y16 -BE need a gst:"),
    ],
)
def test_formats_that_cannot_be_read_are_not_offered(codes, asked, said):
    modes = [Mode(code, 640, 480, 30.0) for code in codes]
    with pytest.raises(CameraError, match=f"^/dev/video0 has no mode .*; it {said}"):
        choose_mode(modes, V4l2Settings("/dev/video0", pixel_format=asked))


class Driver:
    """Says to the kernel's requests what a device of one format does, which has a range of sizes.

    Attributes:
        sizes: least, greatest and step of its width, then of its height.
        fields: what it makes of the fields that it is asked for.
    """

    def __init__(self, sizes=(32, 4096, 2, 32, 2304, 2), fields=None):
        self.sizes, self.fields = sizes, fields or {}

    def call(self, _descriptor, order, argument):
        is_first = not getattr(argument, "index", 0)
        if order == kernel.ENUM_FMT and is_first:
            argument.pixelformat = b"NV12"
        elif order == kernel.ENUM_FRAMESIZES and is_first:
            argument.type, argument.range[:] = 3, self.sizes
        elif order == kernel.S_FMT:
            argument.field = self.fields.get(argument.field, argument.field)
        else:
            raise OSError(errno.ENOTTY, "not of this driver")


@pytest.fixture
def opened(monkeypatch):
    """The format that is agreed on with a driver."""

    def agree(driver, **wanted):
        monkeypatch.setattr(kernel, "call", driver.call)
        source = v4l2.V4l2Source(V4l2Settings("/dev/video0", **wanted))
        source._take_signal()
        return source._agree(kernel.Capability())

    return agree


@pytest.mark.parametrize("size", [(1280, 800), (1600, 1200), (640, 480), (4096, 2304), (32, 34)])
def test_any_size_of_a_range_can_be_asked_for(opened, size):
    found = opened(Driver(), width=size[0], height=size[1])
    assert f", NV12 {size[0]}x{size[1]} at " in found.description


@pytest.mark.parametrize("size", [(1281, 800), (1280, 801), (30, 32), (4098, 2304), (640, 2306)])
def test_the_refusal_of_a_size_names_the_range_and_its_steps(opened, size):
    with pytest.raises(CameraError, match="it has NV12 32x32 to 4096x2304 in steps of 2x2$"):
        opened(Driver(), width=size[0], height=size[1])


def test_without_a_wanted_size_a_usual_one_of_the_range_is_taken(opened):
    assert " 1920x1080 at " in opened(Driver(sizes=(0, 4096, 1, 0, 2304, 1))).description


ALTERNATE, SEQUENTIAL = 7, 5


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {kernel.FIELD_NONE: kernel.FIELD_INTERLACED},
        {kernel.FIELD_NONE: ALTERNATE},  # but interlaced where that is asked for
    ],
)
def test_whole_pictures_are_asked_for(opened, fields):
    assert ", NV12 " in opened(Driver(fields=fields)).description


@pytest.mark.parametrize(("field", "name"), [(ALTERNATE, "alternate"), (SEQUENTIAL, "seq-tb")])
def test_a_grabber_of_half_pictures_is_refused(opened, field, name):
    fields = {kernel.FIELD_NONE: field, kernel.FIELD_INTERLACED: field}
    with pytest.raises(CameraError, match=f"fields .{name}., not whole pictures; .* gst:"):
        opened(Driver(fields=fields))
