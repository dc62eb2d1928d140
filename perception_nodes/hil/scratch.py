"""Folders for the time of a run; those of runs that were killed are removed by the next one."""

import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "perception_hil_"


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    """A new folder, a context manager; first removes those whose process is no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        process = folder.name.removeprefix(PREFIX).partition("_")[0]
        if process.isdigit() and not Path("/proc", process).exists():
            shutil.rmtree(folder, ignore_errors=True)  # another user's stays
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}_")
