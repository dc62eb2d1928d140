"""What a process sent last, as it died, is counted for planners."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from std_msgs.msg import Bool

from perception_nodes.core.frame import DetectionRecord, Detections, FrameRecord, FrameStatus
from perception_nodes.graph.config import TrackerSettings
from perception_nodes.nodes.lane import Lane
from perception_nodes.nodes.periodic_topic import PeriodicTopic
from perception_nodes.nodes.protected_topic import ProtectedTopic
from perception_nodes.nodes.tracker_node import FollowedCamera
from perception_nodes.protection.consumer import Consumer, State
from perception_nodes.tracking.tracker import Tracker

pytestmark = pytest.mark.usefixtures("ros_domain")
TOPIC = "/perception/detections/protected"


class Killed(BaseException):
    """The process dies."""


class Publisher:
    """Keeps what was published; the process may die at a message, which is out by then."""

    topic_name = TOPIC

    def __init__(self, dies_at: int = 0) -> None:
        self.sent: list[bytes] = []
        self._dies_at = dies_at

    def get_subscription_count(self) -> int:
        return 1

    def publish(self, message: bytes) -> None:
        self.sent.append(message)
        if len(self.sent) == self._dies_at:
            raise Killed


def state(plain: Publisher, protected: ProtectedTopic) -> Callable[[], Any]:
    topic = PeriodicTopic(plain, protected)
    return lambda: topic.publish(Bool(data=True))


def detections(plain: Publisher, protected: ProtectedTopic) -> Callable[[], Any]:
    lane: Any = Lane.__new__(Lane)
    lane._detections = SimpleNamespace(
        loan=lambda _: SimpleNamespace(header=DetectionRecord()), send=lambda _: None
    )
    lane.pipeline = SimpleNamespace(status_of=lambda _: FrameStatus.OK)
    lane._seat = SimpleNamespace(lease=SimpleNamespace(publish=lambda: None))
    lane._class_names, lane.publisher, lane._protected = (b"car",), plain, protected
    record = FrameRecord(deadline_ns=time.monotonic_ns() + 100_000_000)
    return lambda: lane._publish(record, Detections.none())


def tracks(plain: Publisher, protected: ProtectedTopic) -> Callable[[], Any]:
    camera: Any = FollowedCamera.__new__(FollowedCamera)
    camera._node = SimpleNamespace(settings=TrackerSettings())
    camera._camera, camera._class_names, camera._tracker = "front", [b"car"], Tracker(1)
    camera._age_ns = camera._taken_ns = 0
    camera._tracks, camera._protected = plain, protected
    record = DetectionRecord(deadline_ns=time.monotonic_ns() + 100_000_000)
    return lambda: camera._publish(record, 0, coasted=False)


@pytest.mark.parametrize("sender", [state, detections, tracks])
@pytest.mark.parametrize("dies_at_copy", [False, True])
def test_a_message_that_is_out_as_its_process_dies_came_to_the_planner_or_is_known_as_lost(
    sender: Callable[[Publisher, ProtectedTopic], Callable[[], None]], dies_at_copy: bool
) -> None:
    plain, copies = Publisher(0 if dies_at_copy else 2), Publisher(2 if dies_at_copy else 0)
    dying = ProtectedTopic(copies)
    publish = sender(plain, dying)
    publish()
    with pytest.raises(Killed):
        publish()
    dying.close()
    successor = ProtectedTopic(copies)
    sender(plain, successor)()
    successor.close()
    consumer = Consumer(TOPIC)
    verdicts = [consumer.check(message) for message in copies.sent]
    known = len(verdicts) + sum(verdict.lost for verdict in verdicts)
    assert {verdict.state for verdict in verdicts} <= {State.OK, State.LOST}
    assert known >= len(plain.sent)
