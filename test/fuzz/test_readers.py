"""Any bytes from other processes are read, or refused with a reason."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutation import mutated
from readers import GUARD, READERS, Guarded, accepts

every_reader = pytest.mark.parametrize(("read", "seeds"), READERS.values(), ids=READERS)


@every_reader
def test_valid_messages_are_read(read, seeds):
    assert all(accepts(read, seed) for seed in seeds)


@every_reader
def test_mutated_messages_are_read_or_refused(read, seeds):
    source = random.Random(1)
    accepted = sum(accepts(read, mutated(source.choice(seeds), source)) for _ in range(3000))
    assert 0 < accepted < 3000, "mutations reach both outcomes"


@every_reader
@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused(read, seeds, data):
    accepts(read, data)


def test_a_view_outside_its_message_would_be_noticed():
    guarded = Guarded(b"message")
    begin = guarded._begin
    assert guarded.holds(begin, begin + 7)
    assert not guarded.holds(begin, begin + 8)
    assert not guarded.holds(begin - len(GUARD), begin)
