"""The real calls with all arguments, over a libcuda whose device is the host.

stub_libcuda.c finds errors that a fake in Python cannot, such as a wrong order of arguments.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
COMPILER = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")


@pytest.mark.parametrize("module", ["PyCUDA", "cuda-bindings"])
def test_all_calls_through(module, tmp_path):
    """An empty module stands for PyCUDA, which is used for nothing but to load the library."""
    if COMPILER is None:
        pytest.skip("no C compiler")
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
    source, library = FOLDER / "stub_libcuda.c", tmp_path / "libcuda.so.1"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", source, "-o", library, "-ldl"], check=True)
    libraries = f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    done = subprocess.run(
        [sys.executable, FOLDER / "driver_calls_on_stub.py", module],
        env={**os.environ, "LD_LIBRARY_PATH": libraries, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
