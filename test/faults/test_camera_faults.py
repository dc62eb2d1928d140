"""What each camera fault makes of a drive."""

from dataclasses import replace

import numpy as np
import pytest

from perception_nodes.core.frame import FrameRejected
from perception_nodes.drives.bag import open_drive
from perception_nodes.faults.camera_faults import with_faults
from perception_nodes.faults.scenario import CameraFault
from perception_nodes.transport.cdr_reader import read_compressed_image, read_image

PERIOD_NS = 100_000_000
FRAMES = 20
HIT = range(5, 15)
"""Frames of the fault: from 0.5 to 1.5 s, at 10 Hz."""


def sent(kind, drive="synthetic:32x16@10*20", **values):
    fault = CameraFault(kind=kind, after_s=0.5, for_s=1.0, **values)
    return list(with_faults(open_drive(drive).frames(), [fault]))


def good():
    return list(open_drive("synthetic:32x16@10*20").frames())


def untouched(frames):
    """Frames that are sent as they were recorded."""
    originals = good()
    return {
        f.index
        for f in frames
        if (f.log_time_ns, f.data) == (originals[f.index].log_time_ns, originals[f.index].data)
        and not (f.stamp_shift_ns or f.lost)
    }


ALL_BUT_HIT = set(range(FRAMES)) - set(HIT)


def test_how_many_frames_each_fault_has_changed_is_known():
    faults = [
        CameraFault(kind="camera_stop", after_s=0.5, for_s=0.2),
        CameraFault(kind="camera_freeze", after_s=0.6, for_s=0.3),
        CameraFault(kind="stamp_backward", after_s=1, for_s=0.5, share=0.4),
        CameraFault(kind="clock_step", after_s=30, for_s=1, step_s=5),
    ]
    kind, times_s = "camera_out_of_order", (0.2, 0.3)
    faults += [CameraFault(kind=kind, after_s=0.5, for_s=for_s) for for_s in times_s]
    faults += [CameraFault(kind="camera_stall_burst", for_s=0.1, after_s=1)]
    hits: list[int] = []
    list(with_faults(good(), faults[:4], hits))
    # What the camera does not send it does not freeze either, and a first picture is not repeated.
    assert hits == [2, 1, 2, 0]
    for fault, changed in zip(faults[4:], (2, 2, 1), strict=True):
        list(with_faults(good(), [fault], hits))
        assert hits == [changed], fault.kind


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("camera_freeze", {}),
        ("stamp_duplicate", {}),
        ("camera_out_of_order", {}),
        ("size_change", {"scale": 1.001}),
        ("clock_step", {"step_s": 1e-10}),
    ],
)
def test_a_fault_that_leaves_its_only_frame_as_it_is_has_changed_none(kind, values):
    fault = CameraFault(kind=kind, after_s=0.5, for_s=0.1, **values)
    hits: list[int] = []
    assert untouched(with_faults(good(), [fault], hits)) == set(range(FRAMES))
    assert hits == [0]


def test_an_encoding_that_the_fault_does_not_know_is_refused():
    fault = CameraFault(kind="encoding_unknown", for_s=1)
    frames = [replace(frame, data=frame.data.replace(b"bgr8", b"rgb8", 1)) for frame in good()]
    with pytest.raises(FrameRejected, match="needs bgr8 images, and these are rgb8"):
        list(with_faults([*frames, *(replace(f, log_time_ns=3 * 10**9) for f in frames)], [fault]))


def test_stop_freeze_and_an_unknown_encoding():
    assert untouched(sent("camera_stop")) == {f.index for f in sent("camera_stop")} == ALL_BUT_HIT
    frozen = sent("camera_freeze")
    assert len({frozen[i].data for i in HIT}) == 1
    assert [f.log_time_ns for f in frozen] == [i * PERIOD_NS for i in range(FRAMES)]
    assert {read_image(sent("encoding_unknown")[i].data).encoding for i in HIT} == {"lab8"}


def test_drop_loses_an_even_share_and_numbers_it():
    frames = sent("camera_drop", share=0.3)
    assert len(frames) == FRAMES
    assert [f.index for f in frames if f.lost] == [8, 11, 14]


def test_stall_and_burst_keeps_the_stamps():
    frames = sent("camera_stall_burst")
    assert [f.index for f in frames] == list(range(FRAMES))
    assert {f.log_time_ns for f in frames if f.index in HIT} == {15 * PERIOD_NS}
    assert [f.log_time_ns + f.stamp_shift_ns for f in frames] == [i * PERIOD_NS for i in range(20)]


def test_out_of_order_swaps_pairs():
    frames = sent("camera_out_of_order")
    assert [f.index for f in frames][5:15] == [6, 5, 8, 7, 10, 9, 12, 11, 14, 13]
    times = [f.log_time_ns for f in frames]
    assert times == sorted(times)
    stamps = {f.index: f.log_time_ns + f.stamp_shift_ns for f in frames}
    assert stamps == {i: i * PERIOD_NS for i in range(FRAMES)}


def test_stamps():
    def stamps(kind, **values):
        return [f.log_time_ns + f.stamp_shift_ns for f in sent(kind, **values)]

    doubled = stamps("stamp_duplicate")
    assert [doubled[i + 1] - doubled[i] for i in HIT][::2] == [0] * 5
    backward = stamps("stamp_backward")
    assert all(backward[i + 1] < backward[i] for i in list(HIT)[:-1])
    ahead = stamps("clock_step", step_s=5)
    assert {ahead[i] - i * PERIOD_NS for i in HIT} == {5_000_000_000}
    assert ahead[15] == 15 * PERIOD_NS


@pytest.mark.parametrize(
    ("kind", "drive", "read"),
    [
        ("cdr_length", "synthetic:32x16@10*20", read_image),
        ("jpeg_truncated", "synthetic:32x16@10*20.jpeg", read_compressed_image),
    ],
)
def test_damaged_messages(kind, drive, read):
    frames = sent(kind, drive, share=0.5)
    originals = list(open_drive(drive).frames())
    damaged = [f for f in frames if f.data != originals[f.index].data]
    assert [f.index for f in damaged] == [6, 8, 10, 12, 14]
    for frame in damaged:
        if kind == "cdr_length":
            with pytest.raises(FrameRejected, match="cut off"):
                read(frame.data)
        else:
            whole = read(originals[frame.index].data)
            assert 0 < len(read(frame.data).data) < len(whole.data)


def test_another_size_is_a_whole_image():
    frames = sent("size_change", scale=2.0)
    view = read_image(frames[5].data)
    assert (view.width, view.height, view.step) == (64, 32, 192)
    pixels = np.frombuffer(view.data, np.uint8).reshape(32, 64, 3)
    small = np.frombuffer(read_image(good()[5].data).data, np.uint8).reshape(16, 32, 3)
    assert abs(pixels.mean() - small.mean()) < 3
    assert untouched(frames) == ALL_BUT_HIT
