"""Each record is taken once, through the channel or from the journal of one who has died."""

import builtins
import errno
import os
import shutil
import sys
import time
from types import MappingProxyType
from unittest.mock import Mock

import pytest

from perception_nodes.core.frame import FrameRecord, FrameStatus, RecordKind
from perception_nodes.core.records import Heartbeat, Takeover, as_sent
from perception_nodes.system.life import VARIABLE, own_incarnation
from perception_nodes.transport import journal
from perception_nodes.transport.channels import NumberedRecords
from perception_nodes.transport.journal import Journal, journal_of, journals
from perception_nodes.transport.standing import removed_file
from perception_nodes.watchdog.book import FORGOTTEN_AFTER_NS
from perception_nodes.watchdog.inbox import Inbox

pytestmark = pytest.mark.usefixtures("ros_domain")
KEPT_NS = 100


@pytest.fixture
def endpoint(join):
    return join()


@pytest.fixture
def detector(endpoint):
    return NumberedRecords(endpoint, "front", "detector", 1)


def inbox_of(endpoint, told=MappingProxyType({})):
    return Inbox(endpoint, "front", ("detector", "preprocess"), KEPT_NS, told)


@pytest.fixture
def inbox(endpoint):
    return inbox_of(endpoint)


def received(inbox):
    return [new for role, record in inbox.receive() for new in inbox.take(role, record)]


def sequences(records):
    return [record.sequence for record in records]


def tell(detector, *numbers):
    for number in numbers:
        detector.send(FrameRecord(kind=RecordKind.OUTCOME, sequence=number))


def test_what_comes_through_the_channel_is_not_taken_again_from_the_journal(detector, inbox):
    tell(detector, 1, 2)
    assert sequences(received(inbox)) == [1, 2]
    tell(detector, 3)
    assert sequences(received(inbox)) == [3]
    assert inbox.last_words("detector", own_incarnation()) == []


def test_what_the_channel_has_lost_is_taken_from_the_journal(detector, inbox):
    tell(detector, 1)
    assert sequences(received(inbox)) == [1]
    tell(detector, 2, 3)
    inbox.receive()  # lost on the way
    tell(detector, 4)
    assert sequences(received(inbox)) == [2, 3, 4]


def test_what_was_told_long_ago_is_not_taken_again(endpoint, detector):
    tell(detector, 1)
    inbox = inbox_of(endpoint)
    much_later = FrameRecord(record=9, sender=own_incarnation(), sent_ns=1 << 62)
    assert inbox.take("detector", much_later) == [much_later]


def test_last_words_are_those_that_the_channel_did_not_bring(detector, inbox):
    tell(detector, 1)
    assert sequences(received(inbox)) == [1]
    tell(detector, 2, 3)
    assert sequences(inbox.last_words("detector", own_incarnation())) == [2, 3]
    assert received(inbox) == [], "they come through the channel as well"


def test_a_new_watchdog_recovers_what_was_told_before_it_came(endpoint, detector):
    tell(detector, 1, 2)
    inbox = inbox_of(endpoint)
    tell(detector, 3)
    sent_ns = inbox_of(endpoint).recover(0)[-1].sent_ns
    assert sequences(inbox.recover(sent_ns)) == [1, 2, 3]
    assert received(inbox) == []
    later_ns = sent_ns + FORGOTTEN_AFTER_NS
    assert inbox_of(endpoint).recover(later_ns) == []
    known = inbox_of(endpoint, {own_incarnation(): 1})
    assert sequences(known.recover(later_ns)) == [2, 3], "a watchdog of its graph had taken the 1st"


def test_the_journal_of_the_dead_is_kept_for_a_while_and_that_of_the_living_stays(
    endpoint, detector
):
    dead = 7
    path = journal_of("front", "detector", dead)
    tell(detector, 1)
    shutil.copy(journal_of("front", "detector", own_incarnation()), path)
    with open(path, "r+b") as file:
        file.seek(32)
        file.write((2**22 + 1).to_bytes(8, sys.byteorder))  # no process has such a number
    inbox = inbox_of(endpoint)
    inbox.recover(1_000)
    detector.leave()  # it may come back
    for sweep in range(3):
        assert path.exists() == (sweep < 2)
        inbox.remove_spent(1_000 + sweep * KEPT_NS)
        inbox.remove_spent(1_001 + sweep * KEPT_NS)
    assert not path.exists()
    assert list(journals("front", "detector")) == [own_incarnation()]


def heard(inbox):
    return [(role, sign.process, sign.patience_ns) for role, sign in inbox.signs()]


def test_signs_of_life_are_found_in_the_journal_of_one_that_has_spoken(detector, inbox):
    detector.sign()
    assert heard(inbox) == [], "nothing is known of it yet"
    detector.send(Heartbeat())
    received(inbox)
    detector.patience_ns = 7
    detector.sign()
    (found,) = inbox.signs()
    assert (found[0], found[1].process, found[1].patience_ns) == ("detector", os.getpid(), 7)
    assert found[1].sent_ns > 0 and found[1].spent_ns > 0
    assert heard(inbox) == [], "each sign counts once"
    detector.sign()
    detector.leave()
    assert heard(inbox) == []
    detector.sign()  # it goes on
    assert heard(inbox) == [("detector", os.getpid(), 7)]
    received(inbox)
    detector.sign()
    assert heard(inbox) == [], "one that has left keeps no journal mapped"
    inbox.close()


def test_a_watchdog_that_is_restarted_knows_those_who_are_alive_by_their_next_sign(
    endpoint, detector, monkeypatch
):
    detector.sign()
    inbox = inbox_of(endpoint)
    inbox.recover(0)
    assert heard(inbox) == [("detector", os.getpid(), 1)], "the last sign tells who hangs"
    with monkeypatch.context() as patched:
        patched.setattr(journal, "was_alive", lambda *_: False)
        inbox = inbox_of(endpoint)
        inbox.recover(0)
    assert heard(inbox) == [], "that one is of another process, which had its number before"
    detector.sign()
    assert heard(inbox) == [("detector", os.getpid(), 1)]
    inbox.last_words("detector", own_incarnation())
    detector.sign()
    assert heard(inbox) == [], "it was seen dead: its number may be another process's"


def test_one_that_is_configured_again_has_another_journal(endpoint, detector, inbox):
    tell(detector, 1)
    received(inbox)
    detector.close()
    again = NumberedRecords(endpoint, "front", "detector", 2)
    again.send(Heartbeat())
    received(inbox)
    again.sign()
    assert heard(inbox) == [("detector", os.getpid(), 2)]


def test_the_journals_of_two_who_had_the_same_number_are_both_read(endpoint, monkeypatch):
    monkeypatch.setenv(VARIABLE, "one")
    for sender in (5, 6):
        monkeypatch.setattr(journal, "own_incarnation", lambda sender=sender: sender)
        Journal("front", "detector").append(FrameRecord(sender=sender, sequence=sender))
    assert sorted(sequences(inbox_of(endpoint).recover(1 << 60))) == [5, 6], "however old"


def test_damaged_numbers_neither_hide_what_follows_nor_stop_the_watchdog(endpoint):
    inbox, now_ns = inbox_of(endpoint), time.monotonic_ns()
    damaged = FrameRecord(record=1 << 60, sent_ns=1 << 62, sender=5)
    assert inbox.new([damaged]) == []
    later = FrameRecord(record=1, sent_ns=1 << 62, ingested_ns=1 << 62, status=99, sender=5)
    (taken,) = inbox.new([later])
    assert now_ns <= taken.ingested_ns <= taken.sent_ns <= time.monotonic_ns()
    assert taken.status == FrameStatus.FAILED
    (newest,) = inbox.new([Takeover(record=2, newest_ns=1 << 62, joined_ns=1 << 62, sender=5)])
    assert max(newest.newest_ns, newest.joined_ns) <= time.monotonic_ns()
    assert isinstance(as_sent(FrameRecord(kind=77)), Heartbeat)


def test_without_a_descriptor_left_nobody_counts_as_dead(endpoint, detector, monkeypatch):
    tell(detector, 1)
    inbox = inbox_of(endpoint)
    refuse = Mock(side_effect=OSError(errno.EMFILE, "Too many open files"))
    with monkeypatch.context() as patched:
        for module, name in ((os, "scandir"), (os, "pidfd_open"), (builtins, "open")):
            patched.setattr(module, name, refuse)
        for now_ns in range(1, 9 * KEPT_NS, KEPT_NS):
            inbox.remove_spent(now_ns)
        assert removed_file(endpoint.number) == ""
    assert list(journals("front", "detector")) == [own_incarnation()]
