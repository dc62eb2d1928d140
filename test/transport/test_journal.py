"""Records outlive the process that wrote them."""

import os
import sys

import pytest
from channel_ends import kill

from perception_nodes.core.frame import FrameRecord
from perception_nodes.core.records import Heartbeat, Takeover
from perception_nodes.system.life import VARIABLE, own_incarnation
from perception_nodes.transport.channels import NumberedRecords
from perception_nodes.transport.journal import (
    RECORDS,
    Journal,
    Signs,
    journal_of,
    journals,
    read_journal,
)

pytestmark = pytest.mark.usefixtures("ros_domain")
WRITTEN_AT = 24
"""Where the count of records lies in the file."""
WRITER = """
from perception_nodes.core.frame import FrameRecord
from perception_nodes.transport.journal import Journal
journal = Journal("front", "detector")
for number in range(3):
    journal.append(FrameRecord(record=number, reason=b"written by the dead"))
print("written", flush=True)
input()
"""


def numbers(path):
    return [record.record for record in read_journal(path)]


def test_the_records_of_a_killed_process_are_read(python):
    process = python(WRITER)
    assert process.stdout.readline() == "written\n"
    kill(process)
    (path,) = journals("front", "detector").values()
    assert Signs(path).process == process.pid
    assert numbers(path) == [0, 1, 2]
    assert read_journal(path)[2].reason == b"written by the dead"


def test_one_that_does_not_name_its_process_yet_is_not_complete(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 0)
    Journal("front", "detector")
    with pytest.raises(ValueError, match="does not name its process yet"):
        Signs(journal_of("front", "detector", own_incarnation()))


def test_it_holds_the_last_ones():
    journal = Journal("front", "detector")
    for number in range(RECORDS + 5):
        journal.append(FrameRecord(record=number))
    found = numbers(journal_of("front", "detector", own_incarnation()))
    # The oldest record is where the next one is written, possibly right now.
    assert found == list(range(6, RECORDS + 5))


def test_what_is_overwritten_as_it_is_read_is_left_out(monkeypatch):
    """The count is read, then two more records come in the place of the oldest, which are read."""
    path = journal_of("front", "detector", own_incarnation())
    journal, count = Journal("front", "detector"), RECORDS + 50
    for number in range(count):
        journal.append(FrameRecord(record=number))
    data = bytearray(path.read_bytes())
    data[WRITTEN_AT : WRITTEN_AT + 8] = (count - 2).to_bytes(8, sys.byteorder)
    torn = path.with_name(f"{path.name}.torn")
    torn.write_bytes(data)
    monkeypatch.setattr(os, "pread", lambda *_: count.to_bytes(8, sys.byteorder))
    assert numbers(torn) == list(range(51, count - 2))
    torn.unlink()


def test_cameras_and_roles_are_kept_apart():
    for camera, role in (
        ("front", "detector"),
        ("front", "preprocess"),
        ("front_left", "detector"),
    ):
        Journal(camera, role).append(FrameRecord(camera=camera.encode(), reason=role.encode()))
    (path,) = journals("front", "detector").values()
    (record,) = read_journal(path)
    assert (record.camera, record.reason) == (b"front", b"detector")


@pytest.mark.parametrize("content", [None, b"", bytes(100)])
def test_one_that_is_gone_or_no_journal_has_no_records(content):
    path = journal_of("front", "detector", 1)
    if content is not None:
        path.write_bytes(content)
    assert read_journal(path) == []


def test_what_is_told_of_frames_is_kept_until_an_orderly_end(join):
    records = NumberedRecords(join(), "front", "detector", 1)
    for record in (FrameRecord(), Heartbeat(), Takeover()):
        records.send(record)
    path = journal_of("front", "detector", own_incarnation())
    assert numbers(path) == [0, 1, 2]
    records.leave()
    records.send(FrameRecord())
    assert numbers(path) == [0, 1, 2, 3, 4], "it may go on after it has left"
    records.close()
    assert not path.exists()


def test_in_a_supervised_graph_it_stays_for_a_watchdog_that_is_gone_just_now(monkeypatch):
    monkeypatch.setenv(VARIABLE, "one")
    journal = Journal("front", "detector")
    journal.append(FrameRecord(record=0))
    journal.close()
    path = journal_of("front", "detector", own_incarnation())
    assert numbers(path) == [0]
    path.unlink()
