"""The backend that fails on demand: healthy until ordered otherwise, and refused to all but hil."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from perception_nodes.backends.contract import BACKENDS, BackendSettings, open_backend
from perception_nodes.core.inference import BackendError
from perception_nodes.faults import faulty_backend
from perception_nodes.faults.faulty_backend import VARIABLE, Orders, hit_file
from perception_nodes.networks.model import load_model

FOR_EVER_NS = 2**62
IMAGE = np.zeros((256, 416, 3), np.uint8)


@pytest.fixture
def orders(tmp_path, monkeypatch):
    """Writes orders to the file that the backend obeys."""
    path = tmp_path / "orders.json"
    monkeypatch.setenv(VARIABLE, str(path))

    def give(**values):
        Orders(**{"until_ns": FOR_EVER_NS, **values}).write(path)

    give()
    give.path = path
    return give


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(BACKENDS, "faulty", faulty_backend.__name__)


@pytest.fixture
def backend(orders, registered):
    opened = open_backend("faulty", BackendSettings(threads=2, max_batch=2))
    opened.load(load_model("road-n"))
    yield opened
    opened.close()


def test_it_is_refused_without_orders(registered, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(BackendError, match="use it through `perception hil run`"):
        open_backend("faulty", BackendSettings())


def test_slow_takes_so_many_times_as_long(backend, orders):
    orders(call_ms=10.0, fault="slow", factor=3.0)
    started_s = time.monotonic()
    backend.infer(IMAGE)
    assert time.monotonic() - started_s >= 0.03


def test_exception(backend, orders):
    orders(fault="exception")
    with pytest.raises(BackendError, match="ordered to fail"):
        backend.infer(IMAGE)


@pytest.mark.parametrize(("fault", "finite"), [("nan", False), ("absurd", True)])
def test_nonsense(backend, orders, fault, finite):
    orders(fault=fault)
    heads = backend.infer(IMAGE)
    assert all(np.isfinite(tensor).all() == finite for tensor in heads.classes)
    assert not any((abs(tensor) < 1e20).any() for tensor in heads.boxes)


def test_a_fault_is_that_of_all_images_of_a_call(backend, orders):
    assert len(backend.infer_batch([IMAGE] * 2)) == 2
    orders(fault="nan")
    for heads in backend.infer_batch([IMAGE] * 2):
        assert all(np.isnan(tensor).all() for tensor in (*heads.boxes, *heads.classes))


def test_a_call_that_is_hit_is_noted_beside_the_orders(backend, orders):
    heads = backend.infer(IMAGE)
    assert all(np.isfinite(tensor).all() for tensor in (*heads.boxes, *heads.classes))
    orders(fault="exception", until_ns=time.monotonic_ns() - 1)
    backend.infer(IMAGE)
    assert not hit_file(orders.path).exists()
    orders(fault="nan")
    backend.infer(IMAGE)
    assert hit_file(orders.path).exists()


def test_a_segfault_ends_one_process_only(orders):
    orders(fault="segfault")
    code = (
        "import numpy as np\n"
        "from perception_nodes.backends.contract import BackendSettings, open_backend\n"
        "from perception_nodes.faults.faulty_backend import register\n"
        "register()\n"
        "open_backend('faulty', BackendSettings()).infer(np.zeros((256, 416, 3), np.uint8))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False)
    assert result.returncode == -signal.SIGSEGV
    assert Orders.model_validate_json(orders.path.read_bytes()).fault == ""
    assert hit_file(orders.path).exists()
