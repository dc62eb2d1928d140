"""The sample drive: a road from the driver's seat, for trying things out."""

import subprocess
import sys
from pathlib import Path

from perception_nodes.core.errors import PerceptionError
from perception_nodes.system.environment import cache_folder, share_folder

ROAD, STREET = Path("bags/road.mp4"), Path("bags/sample")
"""What `make sample` makes in a checkout; the street is what tests play."""


def sample_drive() -> Path:
    """The sample drive of this checkout, or else of the cache, where the first call fetches it.

    Raises:
        PerceptionError: it cannot be fetched.
    """
    folder = cache_folder() / "bags"
    kept = folder / ROAD.name
    for drive in (ROAD, STREET, kept):
        if drive.exists():
            return drive
    maker = share_folder() / "bags/make_sample.py"
    command = [sys.executable, str(maker), "--only", "road", "--out", str(folder)]
    made = subprocess.run(command, stdout=2, check=False)  # our standard output is for the result
    if made.returncode:
        raise PerceptionError(
            f"the sample drive could not be fetched into {folder}, see above; name another with "
            "--bag"
        )
    return kept
