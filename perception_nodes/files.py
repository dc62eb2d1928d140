"""Files that are complete as soon as they are there."""

import os
import tempfile
from pathlib import Path

from perception_nodes.config import SettingsError


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name and rename it; makes its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_writable(path: Path, option: str) -> None:
    """See that a file can be written, before the work that it is to hold the result of.

    Args:
        path: of the file; nothing is left there.
        option: that it was named with, for the error.

    Raises:
        SettingsError: it cannot.
    """
    if path.is_dir():
        raise SettingsError(f"{option} {path} is a folder; name a file")
    there = path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:32]}."):
            pass
        if not there:
            path.parent.rmdir()
    except OSError as error:
        raise SettingsError(
            f"{option} {path} cannot be written: {error.strerror or error}; name another file"
        ) from error
