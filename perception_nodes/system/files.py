"""Files that are complete as soon as they exist, and files that have an end."""

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from perception_nodes.system.object_path import ObjectPath

PROOF_BYTES = 65_536
"""So many bytes are written to see that a disk has room; results are seldom smaller."""


def read_file(path: Path, most_bytes: int) -> bytes:
    """Read a file; a pipe or a device, which may never end, is refused.

    Raises:
        OSError: it is no file, is larger than `most_bytes`, or cannot be read.
    """
    # Without this flag, a pipe that nobody writes to would not even be opened.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
        if status.st_size > most_bytes:
            size = f"it has {status.st_size:,} bytes, {most_bytes:,} are allowed"
            raise OSError(errno.EFBIG, size, str(path))
        return file.read()


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name and rename it; a folder that is missing is made.

    Raises:
        OSError: it cannot be written; nothing of it is left then.
    """
    data = content.encode() if isinstance(content, str) else content
    if isinstance(path, ObjectPath):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _partial(path) as partial:
        partial.write_bytes(data)
        partial.replace(path)


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that is not there yet, with these permissions from its first byte on.

    Raises:
        OSError: it is there, or cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(content)


def write_sealed(path: Path, content: bytes, key: bytes = b"") -> None:
    """Write content for `read_sealed`, like `write_whole`."""
    write_whole(path, hashlib.sha256(key + content).digest() + content)


def read_sealed(path: Path, key: bytes = b"") -> bytes | None:
    """Content that was sealed with this key; None if there is no undamaged file with it."""
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    seal, content = kept[:32], kept[32:]
    return content if hashlib.sha256(key + content).digest() == seal else None


def try_writing(path: Path) -> None:
    """Write what `write_whole` would write, and remove it and the folders made for it.

    Raises:
        OSError: the file cannot be written.
    """
    if isinstance(path, ObjectPath):
        (probe := path.with_name(".probe")).write_bytes(bytes(PROOF_BYTES))
        probe.unlink()
        return
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path) as partial:
            partial.write_bytes(bytes(PROOF_BYTES))
    finally:
        for folder in made:
            with suppress(OSError):  # another process has put a file there, or it was never made
                folder.rmdir()


@contextmanager
def staged(out: Path, last: str = "") -> Iterator[Path]:
    """A temporary folder whose content moves to `out` at the end; after an error, nothing is left.

    Args:
        out: the folder to move to, which is made if missing; folders of the same names are
            replaced.
        last: name of the file that moves last.

    Raises:
        OSError: `out` cannot be written to.
    """
    there = out.exists()
    # Know the name before the folder is made: an interrupt can come between the two.
    folder = out / f".part-{secrets.token_hex(4)}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        yield folder
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == last):
            if entry.is_dir() and (out / entry.name).exists():
                shutil.rmtree(out / entry.name)
            entry.replace(out / entry.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not there:
            # This fails, as it should, if the folder is not empty.
            with suppress(OSError):
                out.rmdir()


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A temporary name for a file; what is left under it is removed at the end."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
