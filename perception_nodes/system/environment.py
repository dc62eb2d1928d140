"""What the processes of a graph need around them: DDS settings, memory settings, signals."""

import ctypes
import os
import signal
import sys
from pathlib import Path

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
"""Loaded here: between fork and exec nothing may be."""


def share_folder() -> Path:
    """The folder of `config/`, `interfaces/`, `models/`: a checkout's, or the installed share/."""
    checkout = Path(__file__).parents[2]
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    installed = [Path(p) / "share/perception_nodes" for p in prefixes if p]
    return next(
        (f for f in [checkout, *installed] if (f / "config/fastdds.xml").is_file()), checkout
    )


def ros_environment(images: bool = False) -> dict[str, str]:
    """Variables for a node's process; what the user has set stays.

    Args:
        images: it sends or receives images through DDS, which do not arrive at all without the
            right profile, see `config/fastdds.xml`.
    """
    # Fast DDS 3 renamed the variable and warns of the old one.
    old = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
    name = "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"
    profile = "fastdds.xml" if images else "fastdds_network.xml"
    return {name: os.environ.get(name, str(share_folder() / "config" / profile))}


def stay_on_this_machine() -> None:
    """Let the graphs we start discover this machine only, where the user has not said otherwise."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


def keep_large_buffers() -> None:
    """Keep frame-sized buffers in the heap instead of mapping and faulting them in each time.

    A 6 MB buffer that is unmapped after each frame costs 1,500 page faults at the next one. To be
    called before anything allocates frames.
    """
    _LIBC.mallopt(M_MMAP_THRESHOLD, 1 << 30)
    _LIBC.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


STOPPING = (signal.SIGINT, signal.SIGTERM)
"""What asks a process to end."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however that happens.

    Without asking: one that hangs would not answer, and nobody would be left to insist.

    Args:
        parent: process number of the parent, which may have died already.
    """
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def cache_folder() -> Path:
    """Where compiled models are kept: `$XDG_CACHE_HOME/perception_nodes`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "perception_nodes"
