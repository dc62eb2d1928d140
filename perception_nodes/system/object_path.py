"""Files in object storage as paths: `s3://`, `gs://`, `az://`, `http(s)://` and `file://`.

They are read and written by obstore, which takes credentials where each store's own tools do, and
repeats requests that fail.
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from io import BytesIO, TextIOWrapper
from itertools import chain
from pathlib import Path, PosixPath
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from perception_nodes.system.environment import cache_folder

SCHEMES = ("s3", "gs", "az", "http", "https", "file")
BLOCK_BYTES = 8 << 20
"""Most bytes of a request, so that each ends in time and a lost connection costs little."""
CACHE_BYTES = 20 << 30
"""Most bytes of the copies that are kept."""
ATTEMPTS = 3
"""How often bytes are asked for: obstore repeats requests, but not where an answer breaks off."""
RETRIES = {"max_retries": 12, "retry_timeout": timedelta(minutes=2)}


class ObjectPath(PosixPath):
    """The URL of an object, or of a folder: what names of objects begin with, up to a slash.

    What is overridden here works as for files; what is not is of no use. Errors are `OSError`.
    """

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":/")
        return f"{scheme}:///{rest}" if scheme == "file" else f"{scheme}://{rest}"

    def open(self, mode: str = "r", *_: Any, **text: Any) -> Any:
        """Read the whole object."""
        content = BytesIO(self.read_range(0, self.size()))
        text.pop("buffering", None)
        return content if "b" in mode else TextIOWrapper(content, **text)

    def write_bytes(self, data: Any) -> int:
        """Write an object, which others see once it is whole."""
        self.upload(BytesIO(data))
        return len(data)

    def upload(self, content: BytesIO | Path) -> None:
        """Write an object from memory or from a file."""
        with self._errors():
            _obstore().put(*self._place(), content)

    def read_range(self, at: int, count: int) -> bytes:
        """`count` bytes from a position on."""
        store, key = self._place()
        for attempt in range(ATTEMPTS if count else 0):
            try:
                with self._errors():
                    data = _obstore().get_range(store, key, start=at, length=count)
                if len(data) < count:
                    said = f"the store sends {len(data)} of {count} bytes"
                    raise OSError(errno.EIO, said, str(self))
                return bytes(data)
            except OSError:
                if attempt == ATTEMPTS - 1:
                    raise
        return b""

    def size(self) -> int:
        """The number of bytes.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return self._version()[1]

    def versions(self) -> list[tuple[str, int, str]]:
        """URL, size and tag of this object, or of those in this folder and below."""
        try:
            return [self._version()]
        except FileNotFoundError:
            return sorted(self._listed())

    def iterdir(self) -> Generator["ObjectPath", None, None]:
        """The objects in this folder."""
        below = len(self.parts) + 1
        for url, _, _ in self.versions():
            if len((found := ObjectPath(url)).parts) == below:
                yield found

    def is_file(self, **_: Any) -> bool:
        """Whether there is such an object."""
        try:
            return self.size() >= 0
        except FileNotFoundError:
            return False

    def is_dir(self, **_: Any) -> bool:
        """Whether objects are in this folder."""
        return next(self._listed(), None) is not None

    def exists(self, **_: Any) -> bool:
        """Whether there is such an object or folder."""
        return self.is_file() or self.is_dir()

    def resolve(self, strict: bool = False) -> "ObjectPath":
        """A URL has no other form."""
        return self

    def mkdir(self, *_: Any, **__: Any) -> None:
        """Do nothing: a folder is there as soon as an object is in it."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        try:
            with self._errors():
                _obstore().delete(*self._place())
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
        found = [one._version() for one in wanted if one is self or one.is_file()]
        name = hashlib.sha256(repr(found).encode()).hexdigest()[:32]
        folder = cache_folder() / "objects" / name
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            _make_room(folder.parent, sum(size for _, size, _ in found), self)
            part = Path(mkdtemp(prefix=".part-", dir=folder.parent))
            try:
                for url, size, _ in found:
                    ObjectPath(url)._copy(part / ObjectPath(url).name, size)
                with suppress(FileExistsError, NotADirectoryError):
                    part.rename(folder)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:  # another process was faster
                    raise
            finally:
                shutil.rmtree(part, ignore_errors=True)
        os.utime(folder)
        return folder / self.name

    def _copy(self, file: Path, size: int) -> None:
        with file.open("wb") as stream:
            for at in range(0, size, BLOCK_BYTES):
                stream.write(self.read_range(at, min(BLOCK_BYTES, size - at)))

    def _version(self) -> tuple[str, int, str]:
        with self._errors():
            # For servers, obstore.head asks as WebDAV does, which few answer.
            found = _obstore().get(*self._place(), options={"head": True}).meta
        return str(self), found["size"], str(found["e_tag"] or found["last_modified"])

    def _listed(self) -> Iterator[tuple[str, int, str]]:
        store, key = self._place()
        if self.parts[0].startswith("http"):  # servers list nothing
            return
        with self._errors():
            for one in chain.from_iterable(_obstore().list(store, key)):
                url = str(self).removesuffix(key) + one["path"]
                yield url, one["size"], str(one["e_tag"] or one["last_modified"])

    def _place(self) -> tuple[Any, str]:
        scheme, *rest = self.parts
        bucket = "" if scheme == "file:" else rest.pop(0)
        return _store(f"{scheme}//{bucket}"), "/".join(rest)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of the store into `OSError`, without what a query may hold: signatures."""
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "it is not in the store", str(self)) from None
        except _obstore().exceptions.BaseError as error:
            reason = " ".join(str(error).partition("Debug source")[0].split())
            reason = re.sub(r"\?[^\s\"')]*", "", reason)
            raise OSError(errno.EIO, reason, str(self)) from None


def path_of(text: str | Path) -> Path:
    """A path from the command line or from a list of drives, which may be a URL."""
    return ObjectPath(text) if str(text).partition("://")[0] in SCHEMES else Path(text)


@contextmanager
def uploaded(out: Path, last: str) -> Iterator[Path]:
    """A folder to write to: `out` itself or, if that is a URL, one whose files are put there.

    Nothing is put there after an error, and what an earlier run left is removed first.

    Args:
        out: the folder that is meant.
        last: name of the file whose existence says that all others are complete.
    """
    if not isinstance(out, ObjectPath):
        yield out
        return
    with TemporaryDirectory() as name:
        yield (folder := Path(name))
        for url, _, _ in out.versions():
            ObjectPath(url).unlink(missing_ok=True)
        for file in sorted(folder.iterdir(), key=lambda file: file.name == last):
            (out / file.name).upload(file)


def _obstore() -> Any:
    try:
        import obstore
        import obstore.store
    except ImportError as error:
        remedy = "install it with: pip install 'perception_nodes[fleet]'"
        raise OSError(errno.ENOPKG, f"a URL needs obstore ({error}); {remedy}") from error
    return obstore


@lru_cache
def _store(url: str) -> Any:
    """The bucket or server of a URL."""
    options = {"timeout": "2 minutes", **({"allow_http": True} if url.startswith("http:") else {})}
    return _obstore().store.from_url(url, client_options=options, retry_config=RETRIES)


def _make_room(folder: Path, size: int, wanted: Path) -> None:
    """Remove the copies that were used longest ago until there is room for another one."""
    if size > CACHE_BYTES:
        limit = f"it has {size:,} bytes, {CACHE_BYTES:,} are kept at most; an mcap is read in place"
        raise OSError(errno.EFBIG, limit, str(wanted))
    copies = sorted(folder.iterdir(), key=lambda copy: copy.stat().st_mtime)
    sizes = {copy: sum(file.stat().st_size for file in copy.iterdir()) for copy in copies}
    for copy in copies:
        if sum(sizes.values()) + size > CACHE_BYTES:
            del sizes[copy]
            shutil.rmtree(copy, ignore_errors=True)
