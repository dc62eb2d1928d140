"""Any file of others, and any order of a bench, is read, or refused with a reason of one line."""

import random

import pytest
from file_readers import FILE_READERS
from mutation import mutated
from readers import accepts

every_reader = pytest.mark.parametrize(("read", "seeds"), FILE_READERS.values(), ids=FILE_READERS)
DEEP = tuple(mark * 5_000 for mark in (b"[", b"{", b"- ", b"("))


@pytest.fixture(autouse=True)
def token(monkeypatch):
    """Orders and answers carry one."""
    monkeypatch.setenv("PERCEPTION_HIL_TOKEN", "")


@every_reader
def test_whole_ones_are_read(read, seeds):
    assert all(accepts(read, seed) for seed in seeds)


@every_reader
def test_damaged_ones_are_read_or_refused(read, seeds):
    source = random.Random(1)
    for _ in range(50):
        accepts(read, mutated(source.choice(seeds), source))


@every_reader
@pytest.mark.parametrize(
    "data", [b"", b"\0" * 4096, b"\xff" * 4096, *DEEP], ids=lambda d: repr(d[:2])
)
def test_nonsense_is_refused(read, seeds, data):
    assert not accepts(read, data)
