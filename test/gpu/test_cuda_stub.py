"""The real calls with all arguments, over a libcuda whose device is the host.

stub_libcuda.c finds errors that a fake in Python cannot, such as a wrong order of arguments.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stub_gpu import build_library

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("module", ["PyCUDA", "cuda-bindings"])
def test_all_calls_through(module, tmp_path):
    """An empty module stands for PyCUDA, which is used for nothing but to load the library."""
    build_library(tmp_path)
    path = str(FOLDER.parents[1])
    if module == "PyCUDA":
        for name in ("__init__", "driver"):
            (tmp_path / "pycuda").mkdir(exist_ok=True)
            (tmp_path / f"pycuda/{name}.py").touch()
        (tmp_path / "pycuda-2026.1.dist-info").mkdir()
        metadata = tmp_path / "pycuda-2026.1.dist-info/METADATA"
        metadata.write_text("Name: pycuda\nVersion: 2026.1\n")
        path = f"{tmp_path}:{path}"
    else:
        pytest.importorskip("cuda.bindings.driver")
    libraries = f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries, "PYTHONPATH": path}
    command = [sys.executable, FOLDER / "driver_calls_on_stub.py", module]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
