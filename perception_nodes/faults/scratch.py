"""Temporary folders of a run; those of a run that was killed are removed by the next run."""

import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "perception_hil_"


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    """A new folder, as a context manager; removes those of dead processes first."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        process = folder.name.removeprefix(PREFIX).partition("_")[0]
        if process.isdigit() and not Path("/proc", process).exists():
            shutil.rmtree(folder, ignore_errors=True)  # folders of other users stay
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}_")
