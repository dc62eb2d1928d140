"""Tracks of a replay whose frames are late."""

import numpy as np

from perception_nodes.core.frame import FrameRecord
from perception_nodes.replay.followed import Followed
from perception_nodes.report.recording import FrameDetections


class Messages:
    """In the place of a recorder."""

    def __init__(self):
        self.times_ns = []

    def write(self, topic, type_name, at_ns, message):
        self.times_ns.append(at_ns)


def test_frames_that_are_published_late_keep_their_identities():
    messages = Messages()
    followed = Followed(messages, ["car"])
    box = np.array([[100, 100, 180, 160]], np.float32)
    car = FrameDetections(["car"], np.array([0.9], np.float32), box)
    for n in range(5):
        record = FrameRecord(published_ns=10**10 + 1_200_000_000, camera=b"front")
        record.stamp_ns, record.capture_ns = 10**12 + n * 50_000_000, 10**10
        followed.add(record, car, n)
    assert messages.times_ns == list(range(5))
    assert followed.objects == {1}
