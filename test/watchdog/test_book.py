"""The book of the ledger: found again by the next watchdog of the graph."""

import pytest

from perception_nodes.core.frame import FrameRecord, FrameStatus
from perception_nodes.system.life import VARIABLE
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER
from perception_nodes.transport.remains import forget
from perception_nodes.watchdog.book import FORGOTTEN_AFTER_NS, KeptBook
from perception_nodes.watchdog.ledger import Ledger

NOW_NS = 10**12


@pytest.fixture(autouse=True)
def book_of_a_crash(ros_domain):
    """A book with one frame, whose keeper is gone; kept by nobody in the end."""
    ledger = Ledger(1000, KeptBook("test", NOW_NS).pages)
    ledger.reported(FrameRecord(sequence=5, incarnation=7, status=FrameStatus.OK, sent_ns=NOW_NS))
    yield
    forget("test")


def test_it_is_found_again_but_not_by_another_graph():
    for _ in range(2):
        book = KeptBook("test", NOW_NS + FORGOTTEN_AFTER_NS)
        pages = book.pages
        assert (pages.reported, pages.counts[FrameStatus.OK]) == (1, 1)
        assert (pages.frames[0].incarnation, pages.frames[0].sequence) == (7, 5)
        del pages
        book.close()
    forget("test")
    assert KeptBook("test", NOW_NS).pages.reported == 0


@pytest.mark.parametrize("now_ns", [NOW_NS + FORGOTTEN_AFTER_NS + 1, NOW_NS - 1])
def test_that_of_another_graph_or_another_boot_is_not(now_ns):
    assert KeptBook("test", now_ns).pages.reported == 0


def test_within_a_graph_it_is_kept_however_long_the_camera_is_silent(monkeypatch):
    for start, reported in (("one", 0), ("one", 1), ("another", 0)):
        monkeypatch.setenv(VARIABLE, start)
        book = KeptBook("test", NOW_NS + 10 * FORGOTTEN_AFTER_NS)
        assert book.pages.reported == reported
        book.pages.reported, book.pages.last_ns = 1, NOW_NS
        book.close()


def test_a_camera_of_the_name_of_a_namespace_leaves_its_message_counters(ros_domain):
    path = SHM_FOLDER / f"{own_prefix()}test.perception.health.count"
    path.touch()
    forget("test")
    assert path.exists()
    path.unlink()
