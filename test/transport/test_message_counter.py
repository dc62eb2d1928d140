"""Numbers of messages that go on from one process to the next."""

import pytest

from perception_nodes.transport import message_counter
from perception_nodes.transport.message_counter import MessageCounter

TOPIC = "/perception/detections/protected"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(message_counter, "SHM_FOLDER", tmp_path)
    return tmp_path


def test_a_successor_goes_on_and_each_topic_counts_by_itself(folder):
    first, standby, other = MessageCounter(TOPIC), MessageCounter(TOPIC), MessageCounter("/other")
    assert [first.take(), first.take(), other.take()] == [0, 1, 0]
    first.close()
    assert [standby.take(), standby.take(), other.take()] == [2, 3, 1]
    standby.close()
    other.close()
    names = sorted(path.name.partition("_")[2] for path in folder.iterdir())
    assert names == ["other.count", "perception.detections.protected.count"]


def test_it_begins_again_after_the_last_number():
    counter = MessageCounter(TOPIC)
    counter.value.next = 2**32 - 1
    assert [counter.take(), counter.take(), counter.take()] == [2**32 - 1, 0, 1]
    counter.close()
