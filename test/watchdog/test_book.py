"""The book of the ledger: found again after a crash, not after an orderly end."""

import pytest

from perception_nodes.core.frame import FrameRecord, FrameStatus
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER
from perception_nodes.watchdog.book import FORGOTTEN_AFTER_NS, KeptBook
from perception_nodes.watchdog.ledger import Ledger

NOW_NS = 10**12


@pytest.fixture(autouse=True)
def book_of_a_crash(ros_domain):
    """A book with one frame, whose keeper is gone; kept by nobody in the end."""
    ledger = Ledger(1000, KeptBook("test", NOW_NS).pages)
    ledger.reported(
        FrameRecord(sequence=5, ingest_process=7, status=FrameStatus.OK, sent_ns=NOW_NS)
    )
    yield
    (SHM_FOLDER / f"{own_prefix()}test.book").unlink(missing_ok=True)


def test_it_is_found_again():
    pages = KeptBook("test", NOW_NS + FORGOTTEN_AFTER_NS).pages
    assert (pages.reported, pages.counts[FrameStatus.OK]) == (1, 1)
    assert (pages.frames[0].process, pages.frames[0].sequence) == (7, 5)


@pytest.mark.parametrize("now_ns", [NOW_NS + FORGOTTEN_AFTER_NS + 1, NOW_NS - 1])
def test_that_of_another_graph_or_another_boot_is_not(now_ns):
    assert KeptBook("test", now_ns).pages.reported == 0


def test_an_orderly_end_leaves_none():
    KeptBook("test", NOW_NS).close()
    assert not list(SHM_FOLDER.glob(f"{own_prefix()}test.book"))
    assert KeptBook("test", NOW_NS).pages.reported == 0
