"""The installed library: TensorRT, or else TensorRT-RTX; only their common API is used."""

import importlib
import importlib.metadata
import importlib.util
import re
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from perception_nodes.core.inference import BackendError

MODULES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""Python modules and their names for people, in the order of preference."""
CUDA_MAJORS = (13, 12, 11)
OUT_OF_MEMORY = re.compile(r"out ?of ?memory", re.IGNORECASE)
"""As in `Error Code 2: OutOfMemory` and `Error Code 1: Cuda Runtime (out of memory)`."""
KEPT_ERRORS = 8


@dataclass(frozen=True)
class Library:
    """A TensorRT library.

    Attributes:
        module: the Python module.
        name: name and version, `TensorRT 10.13.3.9`.
        cuda: CUDA version that it is made for, 13000 for 13.0; 0 if unknown.
    """

    module: Any
    name: str
    cuda: int

    @property
    def for_rtx(self) -> bool:
        """Whether it is TensorRT-RTX, which compiles an engine's kernels when it first runs."""
        return hasattr(self.module, "IRuntimeCache")


def load_library() -> Library:
    """Load the library that is installed.

    Raises:
        ImportError: none is installed, or it cannot be loaded.
    """
    for module_name, title in MODULES.items():
        if importlib.util.find_spec(module_name) is not None:
            module = importlib.import_module(module_name)
            return Library(module, f"{title} {module.__version__}", _cuda_of(module_name))
    raise ImportError("neither tensorrt nor tensorrt_rtx is installed")


def _cuda_of(module_name: str) -> int:
    """CUDA version that its wheel is made for; without a wheel (JetPack) it fits the driver."""
    for major in CUDA_MAJORS:
        with suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(f"{module_name}-cu{major}")
            return 1000 * major
    return 0


def start(library: Library, kind: str, log: Any) -> Any:
    """Create a `Builder` or a `Runtime` that writes its messages to the log.

    Raises:
        BackendError: it cannot start, because there is no GPU or the GPU is not supported.
    """
    try:
        return getattr(library.module, kind)(log)
    except TypeError as error:
        # The bindings raise this if a constructor returns nothing.
        raise BackendError(f"{library.name} cannot start: {log.last_error()}") from error


def make_log(library: Library, keep_all: bool = False) -> Any:
    """Make a logger; `last_error()` gives the last error, `lacks_memory()` whether one was that.

    Args:
        library: TensorRT library that will write to it.
        keep_all: keep all messages in its `lines`.
    """
    severity_type = library.module.ILogger

    class Log(library.module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self._errors = deque(["it does not say why"], maxlen=KEPT_ERRORS)

        def log(self, severity: Any, message: str) -> None:
            if keep_all:
                self.lines.append(message)
            if severity in (severity_type.ERROR, severity_type.INTERNAL_ERROR):
                self._errors.append(" ".join(message.split()))

        def last_error(self) -> str:
            return self._errors[-1]

        def lacks_memory(self) -> bool:
            # The last error is often a general one that follows from it.
            return any(OUT_OF_MEMORY.search(error) for error in self._errors)

    return Log()
