"""Files in object storage as paths: `s3://`, `gs://`, `az://`, `http(s)://` and `file://`.

They are read and written by obstore, which takes credentials where each store's own tools do, and
repeats requests that fail.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from io import BytesIO, TextIOWrapper
from pathlib import Path, PosixPath
from typing import Any

from perception_nodes.core.errors import InputError
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.signals import check_end

SCHEMES = ("s3", "gs", "az", "http", "https", "file")
BLOCK_BYTES = 8 << 20
"""Most bytes of a request, so that each ends in time and a lost connection costs little."""
CACHE_BYTES = 20 << 30
"""Most bytes of the copies that are kept."""
ATTEMPTS = 3
"""How often a store is asked: obstore repeats requests, but not where an answer breaks off."""
BACKOFF = {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=8), "base": 2}
RETRIES: Any = {"max_retries": 1000, "retry_timeout": timedelta(seconds=30), "backoff": BACKOFF}
NOTICED_WITHIN_S = 0.1
"""Time in which a wait notices that the process is asked to end."""


class ObjectPath(PosixPath):
    """The URL of an object, or of a folder: what names of objects begin with, up to a slash.

    What is overridden here works as for files; what is not is of no use. Errors are `OSError`.
    """

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":")
        return f"{scheme}:/{'/' * (scheme == 'file')}{rest or '/'}"

    def open(self, mode: str = "r", *_: Any, **text: Any) -> Any:
        """Read the whole object.

        Raises:
            ValueError: it is to be written; see `write_bytes`.
        """
        if mode not in ("r", "rb"):
            raise ValueError(f"mode {mode}")
        content = BytesIO(self.read_range(0, self.version()[1]))
        text.pop("buffering", None)
        return content if "b" in mode else TextIOWrapper(content, **text)

    def write_bytes(self, data: Any) -> int:
        """Write an object, which others see once it is whole."""
        self.upload(data)
        return len(data)

    def upload(self, content: bytes | Path) -> None:
        """Write an object from memory or from a file."""
        self._ask(lambda obstore, at: obstore.put_async(*at, content))

    def read_range(self, at: int, count: int, tag: str = "") -> bytes:
        """`count` bytes from a position on.

        Raises:
            OSError: they cannot be read, or the object has another tag than this by now.
        """

        async def read(obstore: Any, place: tuple[Any, str]) -> bytes:
            found = await obstore.get_async(*place, options={"range": (at, at + count)})
            if tag and tag != _tag(found.meta):
                raise ValueError("it has changed while it was read")
            data = bytes(await found.bytes_async())
            if len(data) < count:
                raise ValueError(f"the store sends {len(data)} of {count} bytes")
            return data

        return bytes(self._ask(read)) if count else b""

    def version(self) -> tuple[str, int, str]:
        """URL, number of bytes, and the tag that tells versions of the object apart.

        Raises:
            FileNotFoundError: there is no such object.
        """
        # For servers, obstore's own `head` asks as WebDAV does, which few answer.
        head = {"head": True}
        meta = self._ask(lambda obstore, at: obstore.get_async(*at, options=head)).meta
        return str(self), meta["size"], _tag(meta)

    def versions(self) -> list[tuple[str, int, str]]:
        """The version of this object, or of those in this folder and below."""
        try:
            return [self.version()]
        except FileNotFoundError:
            if self.parts[0].startswith("http"):  # servers list nothing
                return []

        async def read(obstore: Any, place: tuple[Any, str]) -> Any:
            return place[1], await obstore.list(*place).collect_async()

        key, found = self._ask(read)
        below = [(self / one["path"].removeprefix(key).lstrip("/"), one) for one in found]
        return sorted((str(path), one["size"], _tag(one)) for path, one in below)

    def iterdir(self) -> Generator["ObjectPath", None, None]:
        """The objects in this folder."""
        for url, _, _ in self.versions():
            if (found := ObjectPath(url)).parent == self:
                yield found

    def is_file(self, **_: Any) -> bool:
        """Whether there is such an object."""
        try:
            return self.version()[1] >= 0
        except FileNotFoundError:
            return False

    def is_dir(self, **_: Any) -> bool:
        """Whether objects are in this folder."""
        return [url for url, _, _ in self.versions()] not in ([], [str(self)])

    def exists(self, **_: Any) -> bool:
        """Whether there is such an object or folder."""
        return bool(self.versions())

    def resolve(self, strict: bool = False) -> "ObjectPath":
        """A URL has no other form."""
        return self

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Do nothing: a folder is there as soon as an object is in it."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            self._ask(lambda obstore, at: obstore.delete_async(*at))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def fetched(self, beside: Sequence[str] = ()) -> Path:
        """A copy of the object on this machine, in a cache.

        Args:
            beside: suffixes of further objects that belong to it; those that exist are copied too.

        Raises:
            OSError: it cannot be read, or is larger than the cache.
        """
        wanted = [self, *(self.with_name(self.name + suffix) for suffix in beside)]
        found = [one.version() for one in wanted if one is self or one.is_file()]
        folder = cache_folder() / "objects"
        folder.mkdir(parents=True, exist_ok=True)
        copy, part = folder / _hash(repr(found)), folder / ".part"
        with (folder / ".lock").open("w") as lock, ExitStack() as stack:
            _lock(lock)  # one process at a time copies and removes
            stack.callback(shutil.rmtree, part, ignore_errors=True)  # if it stays incomplete
            if not copy.is_dir():
                _make_room(folder, sum(size for _, size, _ in found), self)
                part.mkdir()
                for url, size, tag in found:
                    with (part / ObjectPath(url).name).open("wb") as stream:
                        for at in range(0, size, BLOCK_BYTES):
                            some = min(BLOCK_BYTES, size - at)
                            stream.write(ObjectPath(url).read_range(at, some, tag))
                part.rename(copy)
            os.utime(copy)
        return copy / self.name

    def _ask(self, ask: Callable[[Any, tuple[Any, str]], Any]) -> Any:
        """Ask the store, and wait, in any thread, until it answers or this process is asked to end.

        Errors become `OSError`, without what the query of a URL may hold: signatures.
        """
        try:
            import obstore.store
        except ImportError as error:
            remedy = "install it with: pip install 'perception_nodes[fleet]'"
            raise OSError(errno.ENOPKG, f"a URL needs obstore ({error}); {remedy}") from error
        scheme, *rest = self.parts
        bucket = "" if scheme == "file:" or not rest else rest.pop(0)

        async def asked() -> Any:
            _keep_checking()
            return await ask(obstore, (_store(f"{scheme}//{bucket}"), "/".join(rest)))

        for _ in range(ATTEMPTS):
            try:
                return asyncio.run(asked())
            except FileNotFoundError:
                raise FileNotFoundError(errno.ENOENT, "it is not in the store", str(self)) from None
            except (ValueError, obstore.exceptions.BaseError) as error:
                reason = " ".join(str(error).partition("Debug source")[0].split())[:300]
        raise OSError(errno.EIO, re.sub(r"\?[^\s\"')]*", "", reason), str(self))


def path_of(text: str | Path) -> Path:
    """A path from the command line or from a list of drives, which may be a URL.

    Raises:
        InputError: it is a URL with a login or a signature.
    """
    scheme, _, rest = str(text).partition("://")
    if scheme.startswith("http") and re.search(r"[?#]|^[^/]*@", rest):
        plain = re.sub(r"^[^/]*@|[?#].*", "", rest)
        why = "a login or signature in a URL would stand in results; only plain URLs are read"
        raise InputError(f"{scheme}://{plain}: {why}")
    return ObjectPath(text) if scheme in SCHEMES else Path(text)


@contextmanager
def uploaded(out: Path, last: str, outputs: Collection[str]) -> Iterator[Path]:
    """A folder to write to: `out` itself or, if that is a URL, one whose files are put there.

    Nothing is put there after an error.

    Args:
        out: the folder that is meant.
        last: name of the file whose existence says that all others are complete.
        outputs: names of files that are removed there first: an earlier run has left them.
    """
    if not isinstance(out, ObjectPath):
        yield out
        return
    # A name that the next attempt on this machine finds and removes, should this one be killed.
    folder = cache_folder() / "uploads" / _hash(str(out))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        for old in out.iterdir():
            if old.name in outputs:
                old.unlink(missing_ok=True)
        for file in sorted(folder.iterdir(), key=lambda file: file.name == last):
            (out / file.name).upload(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache
def _store(url: str) -> Any:
    """The bucket or server of a URL."""
    import obstore.store

    # Options given here replace those of the environment, such as AWS_ALLOW_HTTP.
    plain: Any = {"client_options": {"allow_http": True}} if url.startswith("http:") else {}
    return obstore.store.from_url(url, retry_config=RETRIES, **plain)


def _keep_checking() -> None:
    """Let the event loop of this thread end when this process is asked to end."""
    check_end()
    asyncio.get_running_loop().call_later(NOTICED_WITHIN_S, _keep_checking)


def _lock(file: Any) -> None:
    """Wait for a lock, in any thread, until it is free or this process is asked to end."""
    while True:
        check_end()
        with suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(NOTICED_WITHIN_S)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _tag(meta: Any) -> str:
    if meta["e_tag"] is None and not meta["last_modified"].timestamp():
        raise OSError(errno.ENOTSUP, "its server tells neither ETag nor Last-Modified")
    return str(meta["e_tag"] or meta["last_modified"])


def _make_room(folder: Path, size: int, wanted: Path) -> None:
    """Remove the copies that were used longest ago until there is room for another one."""
    part = folder / ".part"
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    if size > CACHE_BYTES:
        limit = f"it has {size:,} bytes, and copies of {CACHE_BYTES:,} at most are kept"
        raise OSError(errno.EFBIG, limit, str(wanted))
    copies = [copy for copy in folder.iterdir() if copy.is_dir()]
    sizes = {copy: sum(file.stat().st_size for file in copy.iterdir()) for copy in copies}
    for copy in sorted(copies, key=lambda copy: copy.stat().st_mtime):
        if sum(sizes.values()) + size > CACHE_BYTES:
            del sizes[copy]
            copy.rename(part)  # so that it is there whole or not at all
            shutil.rmtree(part)
