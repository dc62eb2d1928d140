"""When the kernel lets a real-time thread interrupt what others do inside it."""

import gzip
import os
import re
from contextlib import suppress
from pathlib import Path

ROOT = Path("/")
MODELS = {
    "CONFIG_PREEMPT_RT": "rt",
    "CONFIG_PREEMPT": "full",
    "CONFIG_PREEMPT_LAZY": "lazy",
    "CONFIG_PREEMPT_VOLUNTARY": "voluntary",
    "CONFIG_PREEMPT_NONE": "none",
}
AT_ONCE = ("rt", "full", "lazy")
"""Models in which a real-time thread interrupts a system call instead of waiting for its end."""


def kernel_preemption(root: Path = ROOT) -> str:
    """The kernel's preemption model, a value of `MODELS`; empty if it is not known.

    Args:
        root: the folder that contains /proc and /boot.
    """
    chosen = re.search(r"\bpreempt=(\w+)", _text(root / "proc/cmdline"))
    config = _text(root / "proc/config.gz") or _text(root / f"boot/config-{os.uname().release}")
    built_in = [model for option, model in MODELS.items() if f"\n{option}=y" in config]
    if chosen and "rt" not in built_in:
        return chosen[1]
    return built_in[0] if built_in else ""


def _text(file: Path) -> str:
    with suppress(OSError):
        content = file.read_bytes()
        return (gzip.decompress(content) if file.suffix == ".gz" else content).decode()
    return ""
