"""Which start of a graph this process belongs to, so that remains of an earlier one are ignored.

And which process of all that have ever been we are: process numbers are used again.
"""

import hashlib
import os
import time
from functools import cache
from pathlib import Path

VARIABLE = "PERCEPTION_GRAPH_LIFE"
LAUNCHED = "PERCEPTION_LAUNCHED"
"""Set in the environment of a process that ROS's launch has started."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def new_life() -> dict[str, str]:
    """The environment variable for all processes of a graph that is started now."""
    return {VARIABLE: f"{_boot_id()} {os.getpid()} {time.monotonic_ns()}", LAUNCHED: ""}


def graph_life() -> int:
    """Identifies the start of our graph in 64 bits, never 0.

    Nodes that are started one by one, without a supervisor, share the life of the machine.
    """
    text = os.environ.get(VARIABLE) or _boot_id()
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") | 1


@cache
def own_incarnation() -> int:
    """Identifies this process in 64 random bits, never 0; no other process ever has the same."""
    return int.from_bytes(os.urandom(8), "little") or 1


def is_supervised() -> bool:
    """Whether a supervisor has started us, and with us the whole graph."""
    return bool(os.environ.get(VARIABLE))


def is_launched() -> bool:
    """Whether launch has started this very process."""
    return bool(os.environ.get(LAUNCHED))


def ended_by(number: int) -> int:
    """The exit status of a process that a signal has ended in good order.

    Launch sends signals to end what it started, and takes every other status than 0 for a failure.
    """
    return 0 if is_launched() else 128 + number


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.is_file() else ""
