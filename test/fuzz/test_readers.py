"""Any bytes, files or orders of others are read, or refused with a reason of one line."""

import random

import pytest
from file_readers import FILE_READERS
from hypothesis import given, settings
from hypothesis import strategies as st
from mutation import mutated
from readers import GUARD, READERS, Guarded, accepts

DEEP = tuple(mark * 5_000 for mark in (b"[", b"{", b"- ", b"("))


def each_of(readers):
    return pytest.mark.parametrize(("read", "seeds"), readers.values(), ids=readers)


@pytest.fixture(autouse=True)
def token(monkeypatch):
    """Orders and answers carry one."""
    monkeypatch.setenv("PERCEPTION_HIL_TOKEN", "")


@each_of(READERS | FILE_READERS)
def test_whole_ones_are_read(read, seeds):
    assert all(accepts(read, seed) for seed in seeds)


@each_of(READERS)
def test_mutated_messages_are_read_or_refused(read, seeds):
    source = random.Random(1)
    accepted = sum(accepts(read, mutated(source.choice(seeds), source)) for _ in range(3000))
    assert 0 < accepted < 3000, "mutations reach both outcomes"


@each_of(FILE_READERS)
def test_damaged_files_and_orders_are_read_or_refused(read, seeds):
    source = random.Random(1)
    for _ in range(50):
        accepts(read, mutated(source.choice(seeds), source))


@each_of(READERS)
@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused(read, seeds, data):
    accepts(read, data)


@each_of(FILE_READERS)
@pytest.mark.parametrize(
    "data", [b"", b"\0" * 4096, b"\xff" * 4096, *DEEP], ids=lambda d: repr(d[:2])
)
def test_nonsense_is_refused(read, seeds, data):
    assert not accepts(read, data)


def test_a_view_outside_its_message_would_be_noticed():
    guarded = Guarded(b"message")
    begin = guarded._begin
    assert guarded.holds(begin, begin + 7)
    assert not guarded.holds(begin, begin + 8)
    assert not guarded.holds(begin - len(GUARD), begin)
