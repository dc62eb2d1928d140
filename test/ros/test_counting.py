"""What a process sent last, as it died, is counted for planners."""

import pytest
from std_msgs.msg import Bool

from perception_nodes.nodes.protected_topic import ProtectedTopic
from perception_nodes.protection.consumer import Consumer, State
from perception_nodes.system.life import VARIABLE

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


@pytest.mark.parametrize("dies_at_copy", [False, True])
def test_a_message_that_is_out_as_its_process_dies_came_to_the_planner_or_is_known_as_lost(
    dies_at_copy: bool,
) -> None:
    plain, copies = Publisher(0 if dies_at_copy else 2), Publisher(2 if dies_at_copy else 0)
    dying = ProtectedTopic(plain, copies)
    dying.publish_state(Bool(data=True))
    with pytest.raises(Killed):
        dying.publish_state(Bool(data=True))
    dying.close()
    successor = ProtectedTopic(plain, copies)
    successor.publish_state(Bool(data=True))
    successor.close()
    consumer = Consumer(TOPIC)
    verdicts = [consumer.check(message) for message in copies.sent]
    known = len(verdicts) + sum(verdict.lost for verdict in verdicts)
    assert {verdict.state for verdict in verdicts} <= {State.OK, State.LOST}
    assert known >= len(plain.sent)


def test_a_second_graph_that_counts_on_under_our_names_is_another_sender(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies, graphs = Publisher(), []
    for life in ("ours", "another"):
        monkeypatch.setenv(VARIABLE, life)
        graphs.append(ProtectedTopic(Publisher(), copies))
    for graph in graphs:
        graph.publish_state(Bool(data=True))
        graph.close()
    consumer = Consumer(TOPIC)
    states = [consumer.check(message).state for message in copies.sent]
    assert states == [State.OK, State.WRONG]
