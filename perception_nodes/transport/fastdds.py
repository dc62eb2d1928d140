"""What killed processes leave of Fast DDS in shared memory, and its removal."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from perception_nodes.transport.memory import SHM_FOLDER

PREFIX = "fastdds_"
LOCK_SUFFIXES = ("_el", "_sl")
STARTING_S = 1.0
"""Younger files may belong to a process that has not locked them yet."""


def sweep_segments(folder: Path = SHM_FOLDER) -> None:
    """Remove the segments and ports that no living process holds.

    Their owners keep a lock on a file beside each; the kernel drops it with the process, however
    that ends. Those of other graphs on this machine stay.
    """
    files = [path for path in folder.glob(f"{PREFIX}*") if path.is_file()]
    for name in {_base(path.name) for path in files}:
        parts = [folder / name, *(folder / f"{name}{suffix}" for suffix in LOCK_SUFFIXES)]
        if all(map(_abandoned, parts)):
            for path in [*parts, folder / f"sem.{name}_mutex"]:
                with suppress(OSError):  # gone already, or another user's
                    path.unlink()


def _base(name: str) -> str:
    for suffix in LOCK_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _abandoned(path: Path) -> bool:
    """Whether a file is absent, or old enough and locked by nobody."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return time.time() - os.fstat(descriptor).st_ctime > STARTING_S
    except OSError:
        return False
    finally:
        os.close(descriptor)
