"""A backend that is built while another serves: in a process of its own, then loaded in a thread.

A build takes minutes and all of a processor, and may crash; the frames of those minutes must not
feel it. What it leaves is a file in the cache, which `load` then finds.
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.backends.model import ModelError, load_model
from perception_nodes.core.inference import BackendError
from perception_nodes.system.environment import die_with_parent

T = TypeVar("T")


def build_command(backend: str, folders: Sequence[Path], settings: BackendSettings) -> list[str]:
    """The command that builds models for a backend into the cache, with the lowest priority."""
    how = [backend, str(settings.threads), settings.cache_dir, str(os.getpid())]
    return [sys.executable, "-m", __name__, *how, *map(str, folders)]


class Building(Generic[T]):
    """A build under way; `poll` is called between frames and never waits."""

    def __init__(self, command: Sequence[str], load: Callable[[], T]) -> None:
        """Start the build.

        Args:
            command: that builds; where it fails, the last line of its stderr says why.
            load: takes what was built, in a thread of its own.

        Raises:
            BackendError: it cannot be started.
        """
        self._load = load
        self._loaded: T | None = None
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._stderr = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._stderr
            )
        except OSError as error:
            self._stderr.close()
            raise BackendError(f"the build cannot be started: {error}") from error

    def poll(self) -> T | None:
        """What was loaded, once it is; None until then.

        Raises:
            BackendError: the build failed, or what it built cannot be loaded.
        """
        if self._thread is None:
            status = self._process.poll()
            if status is None:
                return None
            if status:
                raise BackendError(self._last_words(status))
            self._thread = threading.Thread(target=self._run, name="loading", daemon=True)
            self._thread.start()
        if self._thread.is_alive():
            return None
        if self._error is not None:
            raise BackendError(str(self._error)) from self._error
        return self._loaded

    def close(self) -> None:
        """End the build, where it has not ended, and wait for what is being loaded."""
        self._process.kill()
        self._process.wait()
        self._stderr.close()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loaded = self._load()
        except Exception as error:
            self._error = error

    def _last_words(self, status: int) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return lines[-1] if lines else f"the build ended with {how} and does not say why"


def main(arguments: Sequence[str]) -> int:
    """Build, out of the way of everybody else; see `build_command`."""
    backend, threads, cache_dir, parent, *folders = arguments
    die_with_parent(int(parent))
    os.nice(19)
    with suppress(OSError):
        # Not on the processors that were set apart for the frames.
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
