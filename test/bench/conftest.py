"""Lets the tests here load the benchmarks, and the GPU in Python with its kernels."""

import sys
from pathlib import Path

TEST = Path(__file__).parent.parent
sys.path[:0] = [str(TEST.parent / "benchmarks"), str(TEST / "backends"), str(TEST / "preprocess")]
