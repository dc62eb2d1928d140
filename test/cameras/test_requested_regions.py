"""Regions that a detector asks for, over real channels."""

import cv2
import numpy as np
import pytest
from pictures import compressed, frame, noise
from videos import packets, pictures

from perception_nodes.cameras.requested_regions import RequestedRegions
from perception_nodes.core.frame import CameraInfo, FrameHeader, FrameRecord, is_region_of
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.transport.channels import look_reader, request_writer
from perception_nodes.video.packet_decoder import VideoDecoder

MATRIX, DISTORTION = (60.0, 0.0, 47.5, 0.0, 60.0, 31.5, 0.0, 0.0, 1.0), (-0.3, 0.08, 0.0, 0.0, 0.0)


def test_a_request_is_for_one_frame_and_ends_where_a_newer_one_waits(join):
    endpoint, size, waits = join(), (64, 32), []
    slots, asking = look_reader(endpoint, "front"), request_writer(endpoint, "front")
    whole = Preprocessor(*size, undistort=False)
    answering = RequestedRegions(endpoint, "front", size, 114, whole, lambda: bool(waits))
    bgr = noise(160, 120)
    image, pixels = frame(bgr, "bgr8"), np.zeros((32, 64, 3), np.uint8)

    def written(source_width=160):
        """Slots with the regions of the next frame, and how many its header announces."""
        request = FrameRecord(source_width=source_width, source_height=120)
        for region in ((8, 4), (96, 88)):
            request.add_look(region, size, 0)
        asking.send_record(request)
        return answered()

    def answered():
        header = FrameHeader(sequence=7)
        answering.receive()
        whole.write(image, pixels, header)
        regions = answering.take(image, header)
        answering.send(image, header, regions)
        found = []
        while (slot := slots.receive()) is not None:
            assert is_region_of(slot.header, slot.payload.nbytes, header)
            left, top = -round(slot.header.pad_x), -round(slot.header.pad_y)
            shown = bgr[top : top + 32, left : left + 64]
            np.testing.assert_array_equal(slot.payload.reshape(32, 64, 3), shown)
            found.append((left, top))
            slot.release()
        return header.looks, found

    assert answered() == (0, [])
    assert written() == (2, [(8, 4), (96, 88)])
    assert answered() == (0, [])
    assert written(source_width=161) == (0, [])
    waits.append(True)
    assert written() == (2, [])


def as_sent(picture, kind):
    if kind == "h264":
        return compressed(kind, packets(kind)[0])
    if kind in ("png", "jpeg"):
        return compressed(kind, cv2.imencode(f".{kind}", picture)[1].tobytes())
    return frame(picture, kind)


@pytest.mark.parametrize("is_rectified", [False, True], ids=["plain", "rectified"])
@pytest.mark.parametrize("kind", ["bgr8", "nv12", "yuyv", "bayer_rggb8", "png", "jpeg", "h264"])
def test_a_look_at_any_kind_of_frame_shows_what_opencv_makes_of_the_whole(join, kind, is_rectified):
    endpoint, size, region, picture = join(), (32, 16), (60, 8), next(iter(pictures(1)))
    slots, asking = look_reader(endpoint, "front"), request_writer(endpoint, "front")
    whole = Preprocessor(*size, undistort=is_rectified)
    whole.calibrate(CameraInfo(96, 64, "plumb_bob", DISTORTION, MATRIX))
    answering = RequestedRegions(endpoint, "front", size, 114, whole, lambda: False)
    request, header = FrameRecord(source_width=96, source_height=64), FrameHeader(sequence=7)
    request.add_look(region, size, 0)
    asking.send_record(request)
    answering.receive()
    image = VideoDecoder().decode(as_sent(picture, kind))
    image = whole.write(image, np.zeros((16, 32, 3), np.uint8), header)
    answering.send(image, header, answering.take(image, header))
    slot = slots.receive()
    assert is_region_of(slot.header, slot.payload.nbytes, header)
    fx, fy, cx, cy = slot.header.rectified_matrix
    shown = np.array([[fx, 0, cx - region[0]], [0, fy, cy - region[1]], [0, 0, 1]])
    lens = np.reshape(MATRIX, (3, 3)), np.array(DISTORTION)
    x, y = np.meshgrid(*(begin + np.arange(own) for begin, own in zip(region, size, strict=True)))
    if is_rectified:
        x, y = cv2.initUndistortRectifyMap(*lens, np.eye(3), shown, size, cv2.CV_32FC1)
    wanted = cv2.remap(picture, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
    found = slot.payload.reshape(16, 32, 3).astype(int)
    slot.release()
    assert np.abs(found - wanted).mean() < (2 if kind in ("bgr8", "png") else 8)
