import os, time
import numpy as np
import pytest
pytestmark = pytest.mark.skipif("VIVID_MACHINE" not in os.environ, reason="no vivid: make camera-test")
from perception_nodes.cameras.feed import CameraFeed
from perception_nodes.cameras.v4l2 import V4l2Settings, V4l2Source, list_devices
from perception_nodes.cameras.channel import camera_reader, view_camera_frame
from perception_nodes.transport.shm import Endpoint

def test_list():
    for d in list_devices():
        print(d.path, d.name, d.driver, len(d.modes), d.modes[:6], d.controls[:5])
    assert len(list_devices()) == 2

def test_frames():
    e = Endpoint("test", 5)
    said = []
    reader = camera_reader(e, "front")
    feed = CameraFeed(e, "front", V4l2Source(V4l2Settings("/dev/video0", 640, 360, pixel_format="NV12")), "cam", said.append)
    try:
        seen = 0
        end = time.monotonic() + 30
        while seen < 20 and time.monotonic() < end:
            feed.step(100)
            s = reader.receive()
            if s is not None:
                h = s.header
                v = view_camera_frame(h, s.payload)
                print(h.number, h.lost, h.width, h.height, h.step, h.size_bytes, h.encoding, (time.time_ns() - h.stamp_ns) / 1e6, v.data[:4].hex())
                s.release(); seen += 1
        print(said, feed.sent, feed.lost)
        assert seen == 20
    finally:
        feed.close(); e.close()
