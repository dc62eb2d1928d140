"""A fake board, and the simulated engine."""

import ctypes
import os
import sys
from pathlib import Path

import hypothesis
import pytest
from fake_engine import FakeEngine, end_of_process, fake_pynq, named

from perception_nodes.fpga import board
from perception_nodes.fpga.simulated import SimulatedEngine

ROOT = Path(__file__).parent.parent.parent

# For `make fpga-mutants`, which only asks whether there is a failure: the same examples each time.
hypothesis.settings.register_profile(
    "first failure",
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.generate],
)


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def bitstream(engine, tmp_path, monkeypatch):
    """A bitstream on a board with PYNQ."""
    monkeypatch.setitem(sys.modules, "pynq", fake_pynq(engine))
    monkeypatch.setattr(board, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(board.BoardEngine, "now_us", lambda bus: engine.time_us)
    monkeypatch.setattr(board.BoardEngine, "sleep_us", lambda bus, time_us: engine.sleep(time_us))
    yield named("perception.bit", tmp_path, monkeypatch)
    end_of_process()


@pytest.fixture
def simulation_path():
    """The smaller simulated engine."""
    path = ROOT / "build/fpga/libengine_512.so"
    if not path.is_file():
        pytest.skip(f"{path.name} is not built (make fpga-sim)")
    return path


@pytest.fixture(scope="module", params=[512, 1024])
def library(request):
    """Each build of the simulated engine.

    FPGA_ENGINES in the environment is another folder of builds, as of those that count what is run
    (`make fpga-coverage`).
    """
    folder = Path(os.environ.get("FPGA_ENGINES", ROOT / "build/fpga"))
    path = folder / f"libengine_{request.param}.so"
    if not path.is_file():
        pytest.skip(f"{path.name} is not built (make fpga-sim)")
    return path


@pytest.fixture(scope="module")
def simulation(request, library):
    """A simulated engine of each build, kept for all tests of a module."""
    engine = SimulatedEngine(library)
    yield engine
    if "FPGA_ENGINES" in os.environ:
        path = library.with_name(f"{request.module.__name__}_{library.stem}.dat")
        engine._library.engine_write_coverage(ctypes.c_void_p(engine._engine), bytes(path))
    engine.close()
