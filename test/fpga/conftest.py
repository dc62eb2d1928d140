"""Lets the tests here share modules of this folder, and a board that is made up."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_engine import FakeEngine, fake_pynq, named  # noqa: E402


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def bitstream(engine, tmp_path, monkeypatch):
    """A bitstream on a board with PYNQ."""
    monkeypatch.setitem(sys.modules, "pynq", fake_pynq(engine))
    return named("perception.bit", tmp_path, monkeypatch)
