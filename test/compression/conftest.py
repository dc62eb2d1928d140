"""A small data folder and random checkpoints, made on the spot: what a compression run needs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
