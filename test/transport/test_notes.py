"""What the processes of a graph tell each other."""

import pytest

from perception_nodes.system import life
from perception_nodes.transport.memory import TransportError
from perception_nodes.transport.notes import CONFIGURATION, Notes, configuration
from perception_nodes.transport.remains import forget


@pytest.fixture
def page(ros_domain, closed, monkeypatch):
    """Opens the page of a graph, as one of its processes."""
    monkeypatch.setenv(life.VARIABLE, "a graph")
    yield lambda: closed(Notes("front"))
    forget("front")


def test_a_change_reaches_every_process_once_and_those_that_start_later(page):
    first, second = page(), page()
    assert first.news() == second.news() == {}
    first.keep({"score_threshold": 0.75})
    assert first.news() == {}, "its own"
    assert second.news() == {"score_threshold": 0.75}
    assert second.news() == {}
    second.keep({"across_classes": True})
    assert first.news() == page().news() == {"score_threshold": 0.75, "across_classes": True}
    assert first.changed() == ["across_classes:=True", "score_threshold:=0.75"]


def test_changes_that_have_no_room_are_refused_and_those_before_stay(page):
    first = page()
    first.keep({"score_threshold": 0.75})
    with pytest.raises(TransportError, match="have room"):
        first.keep({"classes": "ü" * 1000})
    assert page().news() == {"score_threshold": 0.75}


def test_a_change_that_was_cut_off_by_death_is_not_half_read(page):
    first, second = page(), page()
    first.keep({"score_threshold": 0.75})
    first._mapped.value.version |= 1  # killed while it wrote
    first._mapped.value.changes = b'{"score_thr'
    assert second.news() == {}
    second.keep({"iou_threshold": 0.5})
    assert page().news() == {"iou_threshold": 0.5}


def test_the_hash_is_that_of_the_parameters(page, monkeypatch):
    notes = page()
    monkeypatch.delenv(CONFIGURATION, raising=False)
    assert notes.configuration_hash() == 0
    hashes = set()
    for model in ("open-n", "open-s", "open-n"):
        variables = configuration({"/node": [f"model:={model}"]})
        monkeypatch.setenv(CONFIGURATION, variables[CONFIGURATION])
        hashes.add(notes.configuration_hash())
    assert len(hashes) == 2
    notes.keep({"score_threshold": 0.75})
    assert notes.configuration_hash() not in {0, *hashes}


def test_the_next_graph_knows_nothing_of_it(page):
    page().keep({"score_threshold": 0.75})
    forget("front")
    assert page().news() == {}
