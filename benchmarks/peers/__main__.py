"""Starts the benchmark as `python benchmarks/peers`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE.parents[1]), str(HERE.parent)]

from peers.compare import main  # noqa: E402

sys.exit(main())
