"""The environment of a graph's processes: folders, DDS settings, memory settings."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
PR_SET_PDEATHSIG = 1
RANGE, PEERS = "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_STATIC_PEERS"
SAFE_PATH = "PYTHONSAFEPATH"
LOCALHOST, SUBNET = "LOCALHOST", "SUBNET"
_LIBC = ctypes.CDLL(None)
"""The C library, loaded on import because nothing may be loaded between fork and exec."""


def prefixes() -> list[Path]:
    """Folders in which ROS packages are installed: sourced installations, then this Python's."""
    sourced = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return [Path(prefix) for prefix in [*sourced, sys.prefix] if prefix]


def share_folder() -> Path:
    """The folder of `config/`, `interfaces/`, `models/`: a checkout's, or the installed share/."""
    checkout = Path(__file__).parents[2]
    installed = [prefix / "share/perception_nodes" for prefix in prefixes()]
    places = [checkout, *installed]
    return next((f for f in places if (f / "config/fastdds.xml").is_file()), checkout)


def package_version() -> str:
    """The version of this package, read from package.xml."""
    return ElementTree.parse(share_folder() / "package.xml").findtext("version") or "unknown"


def profiles_variable() -> str:
    """Name of the environment variable that names Fast DDS's settings."""
    # Fast DDS 3 (Kilted and later) has a new name, renamed the variable, and warns about the old
    # one.
    old = any((prefix / "lib/libfastrtps.so").exists() for prefix in prefixes())
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"


def ros_environment(images: bool = False, over: str = "") -> dict[str, str]:
    """Environment variables for the process of a node; settings that the user has made are kept.

    Unless the user sets it otherwise, no other machine finds the node or gets an answer from it.

    Args:
        images: whether the node sends or receives images through DDS. They do not arrive at all
            without the right profile, see `config/fastdds.xml`.
        over: `shm` or `udp` if it only receives images, and over what.
    """
    name, profiles = profiles_variable(), share_folder() / "config"
    reach = os.environ.get(RANGE) or LOCALHOST
    if name in os.environ:
        return {name: os.environ[name], RANGE: reach}
    if reach == LOCALHOST and not os.environ.get(PEERS):
        kind, reach = "_localhost_images" if images else "_localhost", "SYSTEM_DEFAULT"
    else:
        kind = "" if images else "_network"
    if images and over:
        kind = f"{kind or '_images'}_{over}"
    return {name: str(profiles / f"fastdds{kind}.xml"), RANGE: reach}


def open_to_network() -> None:
    """Let the nodes we start be found by other machines, unless the user has set the range."""
    os.environ.setdefault(RANGE, SUBNET)


def leave_out_working_folder() -> None:
    """Have the Pythons that we start take no modules from the folder that we are in.

    The folder may be anybody's, and a `yaml.py` in it would run in every node. Python 3.10 does not
    know this variable.
    """
    os.environ.setdefault(SAFE_PATH, "1")


def keep_large_buffers() -> None:
    """Keep frame-sized buffers in the heap instead of mapping and faulting them in each time.

    A 6 MB buffer that is unmapped after each frame costs 1,500 page faults at the next one. Call
    this before anything allocates frames.
    """
    _LIBC.mallopt(M_MMAP_THRESHOLD, 1 << 30)
    _LIBC.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, for whatever reason.

    The signal is SIGKILL: a hanging process would ignore another one, and no parent would notice.

    Args:
        parent: process number of the parent, which may have died already.
    """
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def cache_folder() -> Path:
    """The folder of compiled models, `$XDG_CACHE_HOME/perception_nodes`."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "perception_nodes"
    try:
        home = Path.home()
    except RuntimeError:  # a user that the machine does not know has no home
        home = Path("/")  # Docker sets `/` for such a user, who cannot write there
    return home / ".cache/perception_nodes"


@contextmanager
def writing_cache(folder: Path | None, error_type: type[Exception]) -> Iterator[None]:
    """Tell why the folder of compiled models cannot be written, and what to do, as an error."""
    try:
        yield
    except OSError as error:
        raise error_type(
            f"the cache {folder} cannot be written: {error.strerror or error}; name another folder "
            "with $XDG_CACHE_HOME"
        ) from error
