"""Which start of a graph this process belongs to, so that remains of an earlier one are ignored."""

import hashlib
import os
import time
from pathlib import Path

VARIABLE = "PERCEPTION_GRAPH_LIFE"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def new_life() -> dict[str, str]:
    """The environment variable for all processes of a graph that is started now."""
    return {VARIABLE: f"{_boot_id()} {os.getpid()} {time.monotonic_ns()}"}


def graph_life() -> int:
    """Identifies the start of our graph in 64 bits, never 0.

    Nodes that are started one by one, without a supervisor, share the life of the machine.
    """
    text = os.environ.get(VARIABLE) or _boot_id()
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") | 1


def is_supervised() -> bool:
    """Whether a supervisor has started us, and with us the whole graph."""
    return bool(os.environ.get(VARIABLE))


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.is_file() else ""
