"""Lets the tests of this folder share modules: pytest's importlib mode adds no path itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
