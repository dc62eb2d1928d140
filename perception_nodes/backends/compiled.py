"""Compiling a model into the cache that nodes start from, but only after it has passed a check.

A runtime names its compiled files by the model, the settings and the machine. So it can compile
into a separate folder: moved to the cache under the same names, the files are found by a node.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from perception_nodes.backends.contract import Backend, BackendInfo, BackendSettings, open_backend
from perception_nodes.core.inference import BackendError, Progress
from perception_nodes.networks.model import Model
from perception_nodes.system.environment import writing_cache


class CompiledRefused(RuntimeError):
    """A compiled model failed its check; the text says why."""


@dataclass(frozen=True)
class Compiled:
    """A compiled model, as nodes will load it.

    Attributes:
        backend: the backend with the model loaded.
        info: what the backend says of itself.
        folder: folder with the compiled files until they enter the cache.
        files: names of the compiled files; empty if the runtime keeps nothing.
        compile_s: duration of the first load, which compiles, in seconds.
        load_s: duration of every later load, in seconds.
    """

    backend: Backend
    info: BackendInfo
    folder: Path
    files: list[str]
    compile_s: float
    load_s: float


Bar = Callable[[str], AbstractContextManager[Progress]]
"""Starts a progress bar with the given title."""


@contextmanager
def compiled(
    model: Model, backend: str, threads: int, cache: Path, bar: Bar | None = None
) -> Iterator[Compiled]:
    """Compile a model and load it back; it enters the cache when the block ends without an error.

    If the block raises `CompiledRefused`, an earlier version in the cache is removed too. Any other
    error leaves the cache as it was.

    Args:
        model: the model.
        backend: name of the backend.
        threads: number of threads that it may use, the same as in nodes.
        cache: folder for compiled models.
        bar: shows the progress of the compilation.

    Raises:
        BackendError: the runtime is not installed or refuses the model, or the cache cannot be
            written.
    """
    with writing_cache(cache, BackendError):
        cache.mkdir(parents=True, exist_ok=True)
        # It is inside the cache, so that files are moved by renaming.
        apart = tempfile.TemporaryDirectory(prefix=".compiling-", dir=cache)
    with apart as folder:
        settings = BackendSettings(threads, folder)
        with bar(f"building {model.name} for {backend}") if bar else nullcontext() as progress:
            building = replace(settings, timing_dir=str(cache), progress=progress)
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
    """Load a model; returns the duration in seconds, too."""
    begun_ns = time.monotonic_ns()
    backend = open_backend(name, settings)
    info = backend.load(model)
    return backend, info, (time.monotonic_ns() - begun_ns) / 1e9
