"""Lets the tests here share `fake_gpu.py`, and `toys.py` of the compression tests."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "compression")]
