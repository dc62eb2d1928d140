"""A model compiled into the cache that nodes start from, but not before it was looked at.

A runtime names what it compiles by the model, its settings and the machine. So it compiles into a
folder apart, and files move to the cache under the same names, where a node finds them.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from perception_nodes.backends.contract import (
    Backend,
    BackendInfo,
    BackendSettings,
    open_backend,
)
from perception_nodes.backends.model import Model
from perception_nodes.core.inference import BackendError, Progress


class CompiledRefused(RuntimeError):
    """What was compiled does not detect what it should; the text says what it lacks."""


@dataclass(frozen=True)
class Compiled:
    """A model as nodes will load it.

    Attributes:
        backend: it, loaded.
        info: of the backend.
        folder: where it lies until it enters the cache.
        files: names of what goes into the cache; none where the runtime keeps nothing.
        compile_s: what loading takes the first time, seconds.
        load_s: what it takes from then on.
    """

    backend: Backend
    info: BackendInfo
    folder: Path
    files: list[str]
    compile_s: float
    load_s: float


Bar = Callable[[str], AbstractContextManager[Progress]]
"""Starts a progress bar of that title."""


@contextmanager
def compiled(
    model: Model, backend: str, threads: int, cache: Path, bar: Bar | None = None
) -> Iterator[Compiled]:
    """Compile a model and read it back; it enters the cache if the block ends well.

    Where the block raises `CompiledRefused`, what the cache held of it before is removed too. Any
    other error leaves the cache as it was.

    Args:
        model: the model.
        backend: name of the runtime.
        threads: that it may use, as nodes have it.
        cache: folder for compiled models.
        bar: for what takes long.

    Raises:
        BackendError: the runtime is not there or refuses the model, or the cache cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Inside of the cache, so that moving a file is a renaming.
        apart = tempfile.TemporaryDirectory(prefix=".compiling-", dir=cache)
    except OSError as error:
        raise BackendError(
            f"the cache {cache} cannot be written: {error.strerror}; name another folder with "
            "$XDG_CACHE_HOME"
        ) from error
    with apart as folder:
        settings = BackendSettings(threads, folder)
        with bar(f"building {model.name} for {backend}") if bar else nullcontext() as progress:
            building = replace(settings, progress=progress)
            opened, info, compile_s = _load(model, backend, building)
        load_s = compile_s
        files = sorted(path.name for path in Path(folder).iterdir())
        try:
            if files:
                opened.close()
                opened, info, load_s = _load(model, backend, settings)
            yield Compiled(opened, info, Path(folder), files, compile_s, load_s)
        except CompiledRefused:
            for name in files:
                (cache / name).unlink(missing_ok=True)
            raise
        finally:
            opened.close()
        for name in files:
            os.replace(Path(folder) / name, cache / name)


def _load(model: Model, name: str, settings: BackendSettings) -> tuple[Backend, BackendInfo, float]:
    """Load a model and take the time, seconds."""
    begun_ns = time.monotonic_ns()
    backend = open_backend(name, settings)
    info = backend.load(model)
    return backend, info, (time.monotonic_ns() - begun_ns) / 1e9
