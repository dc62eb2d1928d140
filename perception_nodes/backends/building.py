"""Building a backend while another one serves: in a separate process, then loaded in a thread.

A build takes minutes, uses a whole processor and may crash, and must not disturb the frames of that
time. Its result is a file in the cache, from which the backend then loads.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Generic, TypeVar

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.inference import BackendError
from perception_nodes.networks.model import ModelError, load_model
from perception_nodes.system.environment import die_with_parent
from perception_nodes.system.realtime import work_in_background

T = TypeVar("T")


def build_command(backend: str, folders: Sequence[Path], settings: BackendSettings) -> list[str]:
    """The command that builds models for a backend into the cache, at the lowest priority."""
    how = [backend, str(settings.threads), settings.cache_dir, str(os.getpid())]
    return [sys.executable, "-m", __name__, *how, *map(str, folders)]


class Building(Generic[T]):
    """A running build; `poll` is called between frames and never waits."""

    def __init__(self, command: Sequence[str], load: Callable[[], T]) -> None:
        """Start the build.

        Args:
            command: runs the build; if it fails, the last line of its stderr says why.
            load: loads the result of the build; it is called in a thread of its own.

        Raises:
            BackendError: the build cannot be started.
        """
        self._load = load
        self._loaded: Future[T] | None = None
        self._stderr = tempfile.TemporaryFile()
        try:
            quiet = subprocess.DEVNULL
            self._process = subprocess.Popen(
                command, stdin=quiet, stdout=quiet, stderr=self._stderr
            )
        except OSError as error:
            self._stderr.close()
            raise BackendError(f"the build cannot be started: {error}") from error

    def poll(self) -> T | None:
        """The result of `load`, None until it is there.

        Raises:
            BackendError: the build failed, or its result cannot be loaded.
        """
        if self._loaded is None:
            if (status := self._process.poll()) is None:
                return None
            if status:
                raise BackendError(self._last_words(status))
            self._loaded = Future()
            # A process that ends without `close` must not wait for it.
            Thread(target=self._run, args=[self._loaded], name="loading", daemon=True).start()
        try:
            return self._loaded.result() if self._loaded.done() else None
        except Exception as error:
            raise BackendError(str(error)) from error

    def close(self) -> T | None:
        """Kill the build if it still runs, and wait for a running `load`.

        Returns:
            The result of `load` if there is one.
        """
        self._process.kill()
        self._process.wait()
        self._stderr.close()
        if self._loaded is None or self._loaded.exception() is not None:
            return None
        return self._loaded.result()

    def _run(self, loaded: "Future[T]") -> None:
        work_in_background()
        try:
            loaded.set_result(self._load())
        except BaseException as error:
            loaded.set_exception(error)

    def _last_words(self, status: int) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return lines[-1] if lines else f"the build ended with {how} and does not say why"


def main(arguments: Sequence[str]) -> int:
    """Build at the lowest priority; see `build_command`."""
    backend, threads, cache_dir, parent, *folders = arguments
    die_with_parent(int(parent))
    os.nice(19)
    with suppress(OSError):
        # Do not inherit the node's affinity: its processors are reserved for the frames.
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        for folder in folders:
            opened = open_backend(backend, BackendSettings(int(threads), cache_dir))
            opened.load(load_model(folder))
            opened.close()
    except (BackendError, ModelError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
