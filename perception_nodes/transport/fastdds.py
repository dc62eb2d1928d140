"""Removal of the Fast DDS files that killed processes leave in shared memory."""

import fcntl
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from perception_nodes.transport.memory import SHM_FOLDER

PREFIXES = ("fastdds_", "fastrtps_")
"""Prefixes of version 3 (Kilted and later) and of version 2 (Jazzy)."""
LOCK_SUFFIXES = ("_el", "_sl")
STARTING_S = 1.0
"""A younger file may belong to a process that has not locked it yet."""


def sweep_segments(folder: Path = SHM_FOLDER) -> None:
    """Remove the segments and ports that no living process holds.

    The owner of a segment or port keeps a lock on a file beside it, which the kernel releases when
    the process ends in any way. So the files of other living graphs on this machine stay.
    """
    files = [path for path in folder.iterdir() if path.name.startswith(PREFIXES) and path.is_file()]
    for name in {_base(path.name) for path in files}:
        lockable = [folder / name, *(folder / f"{name}{suffix}" for suffix in LOCK_SUFFIXES)]
        with ExitStack() as locks:
            if all(_abandoned(path, locks) for path in lockable):
                for path in [*lockable, folder / f"sem.{name}_mutex"]:
                    with suppress(OSError):  # it is gone already, or belongs to another user
                        path.unlink()


def _base(name: str) -> str:
    for suffix in LOCK_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _abandoned(path: Path, locks: ExitStack) -> bool:
    """Whether a file is absent, or is old enough and not locked; we then lock it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    locks.callback(os.close, descriptor)
    if time.time() - os.fstat(descriptor).st_ctime <= STARTING_S:
        return False  # even our short lock could keep the owner from taking it
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
