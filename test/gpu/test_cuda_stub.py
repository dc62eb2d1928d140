"""The real calls with all arguments, over a libcuda whose device is the host.

stub_libcuda.c finds errors that a fake module cannot, such as a wrong order of arguments. The calls
go through cuda-bindings, and as they go where PyCUDA is installed: an empty module stands for it,
since it is used for nothing but to load the library.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
COMPILER = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("stub")
    source = FOLDER / "stub_libcuda.c"
    command = [COMPILER, "-shared", "-fPIC", "-O1", source, "-o", folder / "libcuda.so.1", "-ldl"]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module", params=["PyCUDA", "cuda-bindings"])
def report(request, library, tmp_path_factory):
    path = str(FOLDER.parents[1])
    if request.param == "PyCUDA":
        folder = tmp_path_factory.mktemp("pycuda")
        (folder / "pycuda").mkdir()
        for name in ("__init__", "driver"):
            (folder / f"pycuda/{name}.py").touch()
        (folder / "pycuda-2026.1.dist-info").mkdir()
        (folder / "pycuda-2026.1.dist-info/METADATA").write_text("Name: pycuda\nVersion: 2026.1\n")
        path = f"{folder}:{path}"
    else:
        pytest.importorskip("cuda.bindings.driver")
    library = f"{library}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    done = subprocess.run(
        [sys.executable, FOLDER / "driver_calls_on_stub.py"],
        env={**os.environ, "LD_LIBRARY_PATH": library, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["facts"]["through"].startswith(request.param)
    return report


def test_facts(report):
    facts = report["facts"]
    assert (facts["name"], facts["sm"], facts["memory_bytes"]) == ("Stub GPU 0", 87, 1 << 24)
    assert facts["integrated"] and facts["driver_cuda"] == 13000


def test_copies_kernels_and_graphs(report):
    assert report["copied"] and report["filled"]
    assert report["replayed"] == [True, True, True]
    assert report["took_ms"] == 0.25


def test_a_device_outlives_the_thread_that_opened_it(report):
    assert report["from_elsewhere"] == 8 * [3]


def test_memory(report):
    assert report["free_bytes"] == (1 << 24) - 2000
    assert report["freed_bytes"] == 1000


def test_errors(report):
    name, text = report["out_of_memory"]
    assert name == "CUDA_ERROR_OUT_OF_MEMORY" and "the GPU's memory is full" in text
    name, text = report["no_kernel"]
    assert name == "CUDA_ERROR_NO_BINARY_FOR_GPU" and "compile them for this one" in text
    assert "named symbol not found" in report["no_function"][1]
