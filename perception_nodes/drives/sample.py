"""The sample drive: street video for trying things out."""

import subprocess
import sys
from pathlib import Path

from perception_nodes.core.errors import PerceptionError
from perception_nodes.system.environment import cache_folder, share_folder

SAMPLE = Path("bags/sample")
"""Its path in a checkout, where `make sample` makes it."""


def sample_drive() -> Path:
    """The sample drive of this checkout, or else of the cache, where the first call makes it.

    Raises:
        PerceptionError: it cannot be made.
    """
    folder = cache_folder() / "bags"
    for drive in (SAMPLE, folder / SAMPLE.name):
        if drive.is_dir():
            return drive
    maker = share_folder() / "bags/make_sample.py"
    command = [sys.executable, str(maker), "--out", str(folder)]
    made = subprocess.run(command, stdout=2, check=False)  # our standard output is for the result
    if made.returncode:
        raise PerceptionError(
            f"the sample drive could not be made in {folder}, see above; name another with --bag"
        )
    return folder / SAMPLE.name
