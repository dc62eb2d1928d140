"""A camera that publishes video: each packet is accounted for, with a reason if it gave nothing."""

import numpy as np
import pytest
from beside import beside
from ffmpeg_image_transport_msgs.msg import FFMPEGPacket
from foxglove_msgs.msg import CompressedVideo
from perception_interfaces.msg import FrameReport
from rclpy.qos import ReliabilityPolicy
from recorder import Recorder
from videos import KEY_EVERY, packets

from perception_nodes.graph.graph import LIVE

pytestmark = [pytest.mark.ros]
LOST, CUT = 11, 17


def message(transport, packet, number):
    data = np.frombuffer(packet, np.uint8)
    if transport == "ffmpeg":
        made = FFMPEGPacket(width=96, height=64, encoding="hevc;yuv420p;bgr8;bgr8", data=data)
        made.header.frame_id, made.header.stamp.sec = "optical", number
        return made
    made = CompressedVideo(frame_id="optical", format="h264", data=data)
    made.timestamp.sec = number
    return made


@pytest.mark.parametrize(("transport", "codec"), [("ffmpeg", "h265"), ("foxglove", "h264")])
def test_each_packet_is_a_frame(transport, codec):
    stream = packets(codec)
    reports: dict[int, FrameReport] = {}

    def drive(_):
        recorder = Recorder()
        node = recorder.node
        node.create_subscription(
            FrameReport,
            "/perception/frame_report",
            lambda report: reports.setdefault(report.header.stamp.sec, report),
            1000,
        )
        kind = type(message(transport, b"", 0))
        camera = node.create_publisher(kind, f"/camera/image_raw/{transport}", 10)

        def is_heard():
            """Whether the graph asks for the reliability that we offer, which it learns of late."""
            heard = node.get_subscriptions_info_by_topic(camera.topic_name)
            wanted = {info.qos_profile.reliability for info in heard}
            return bool(reports) and wanted == {ReliabilityPolicy.RELIABLE}

        # Before a key frame, until somebody listens and is heard.
        number = 0
        while not is_heard():
            number += 1
            camera.publish(message(transport, stream[1], number))
            recorder.spin(0.1)
        first = number + 1
        for index, packet in enumerate(stream):
            if index != LOST:
                whole = packet if index != CUT else packet[:5]
                camera.publish(message(transport, whole, first + index))
                recorder.until(lambda index=index: first + index in reports)
        recorder.close()
        assert {reports[early].reason for early in reports if early < first} == {
            f"{codec}: decoding starts at a key frame, and none has come yet"
        }
        for index in range(len(stream)):
            broken = LOST < index < 2 * KEY_EVERY or index >= CUT
            if index == LOST:
                continue
            report = reports[first + index]
            assert report.header.frame_id == "optical"
            assert (report.status == FrameReport.FAILED) == broken, (index, report)
            assert not broken or report.reason.startswith(f"{codec}: "), report.reason
            if not broken:
                assert (report.source_width, report.source_height) == (96, 64)

    beside(LIVE.nodes({"backend": "null", "image_transport": transport}), drive)
