"""The real calls with all arguments, over a libcuda whose device is the host.

stub_libcuda.c finds errors that a fake in Python cannot, such as a wrong order of arguments.
"""

import os
import subprocess
import sys
from pathlib import Path

from stub_gpu import build_library

FOLDER = Path(__file__).parent


def test_all_calls(tmp_path):
    build_library(tmp_path)
    libraries = f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    path = {"LD_LIBRARY_PATH": libraries, "PYTHONPATH": str(FOLDER.parents[1])}
    command = [sys.executable, FOLDER / "driver_calls_on_stub.py"]
    done = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
