"""Packs the message packages that build.py has installed into a wheel.

It serves machines of the same Python, processor and ROS wheels that have no compiler.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

NAME = "perception_messages"
LEFT_OUT = (
    "include/*", "share/*/cmake/*", "share/*/environment/*", "share/*/local_setup.*", "*.dsv",
    "*.egg-info/*", "*/parent_prefix_path/*",
)  # fmt: skip
"""What only builds and shells need; it names folders of this machine."""


def write_wheel(prefix: Path, files: Iterable[str], version: str, folder: Path) -> Path:
    """Write a wheel of installed files.

    Args:
        prefix: of the environment that they are installed in.
        files: relative to it.
        version: of the wheel.
        folder: gets the wheel; made if need be.

    Returns:
        The wheel.

    Raises:
        OSError: it cannot be written.
    """
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    tag = f"{python}-{python}-{platform}"
    information = f"{NAME}-{version}.dist-info"
    contents = {
        _place(name, prefix, version): (prefix / name).read_bytes()
        for name in sorted(files)
        if not any(fnmatch(name, pattern) for pattern in LEFT_OUT)
    }
    # Libraries of another distribution of ROS have the same names and other contents.
    ros = importlib.metadata.version("ros-rclpy")
    contents[f"{information}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n"
        "Summary: ROS messages of perception_nodes, compiled\nLicense: Apache-2.0\n"
        f"Requires-Dist: ros-rclpy=={ros}\nRequires-Dist: numpy\n"
    ).encode()
    contents[f"{information}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: perception_nodes\nRoot-Is-Purelib: false\nTag: {tag}\n"
    ).encode()
    lines = [f"{name},{_digest(data)},{len(data)}" for name, data in contents.items()]
    record = f"{information}/RECORD"
    contents[record] = "\n".join([*lines, f"{record},,", ""]).encode()

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}-{version}-{tag}.whl"
    unfinished = path.with_suffix(".tmp")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in contents.items():
            wheel.writestr(name, data)
    return unfinished.replace(path)


def _place(name: str, prefix: Path, version: str) -> str:
    """Where a file lies in the wheel."""
    packages = Path(sysconfig.get_path("purelib")).relative_to(prefix).as_posix()
    if name.startswith(f"{packages}/"):
        return name.removeprefix(f"{packages}/")
    return f"{NAME}-{version}.data/data/{name}"


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"
