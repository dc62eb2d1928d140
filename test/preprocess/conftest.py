"""Lets the tests here share `pictures.py`, and the GPU in Python that the backends' tests have:
pytest's importlib mode adds no path itself."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "backends")]
