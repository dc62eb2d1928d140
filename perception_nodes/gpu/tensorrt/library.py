"""TensorRT, or TensorRT-RTX where that is not installed: on the API that both have."""

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import Any

from perception_nodes.core.inference import BackendError

MODULES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""Python modules and what they are called, the one to be taken first in front."""
CUDA_MAJORS = (13, 12, 11)


@dataclass(frozen=True)
class Library:
    """A runtime.

    Attributes:
        module: the Python module.
        name: with its version, `TensorRT 10.13.3.9`.
        cuda: the CUDA version it is made for, 13000 for 13.0; 0 where it does not say.
    """

    module: Any
    name: str
    cuda: int

    @property
    def for_rtx(self) -> bool:
        """Whether it is TensorRT-RTX, which compiles the last step of an engine where it runs."""
        return hasattr(self.module, "IRuntimeCache")


def load_library() -> Library:
    """The runtime that is installed.

    Raises:
        ImportError: none is, or it cannot be loaded.
    """
    for module_name, title in MODULES.items():
        if importlib.util.find_spec(module_name) is not None:
            module = importlib.import_module(module_name)
            return Library(module, f"{title} {module.__version__}", _cuda_of(module_name))
    raise ImportError("neither tensorrt nor tensorrt_rtx is there")


def _cuda_of(module_name: str) -> int:
    """What the wheel that it came with is made for; the one of a JetPack fits its driver anyway."""
    for major in CUDA_MAJORS:
        try:
            importlib.metadata.version(f"{module_name}-cu{major}")
        except importlib.metadata.PackageNotFoundError:
            continue
        return 1000 * major
    return 0


def start(library: Library, kind: str, log: Any) -> Any:
    """A `Builder` or a `Runtime` that says to the log what it has to say.

    Raises:
        BackendError: it cannot start, since it finds no GPU or one that it does not know.
    """
    try:
        return getattr(library.module, kind)(log)
    except TypeError as error:
        # How its bindings tell of a constructor that gave nothing.
        raise BackendError(f"{library.name} cannot start: {log.last_error()}") from error


def make_log(library: Library, keep_all: bool = False) -> Any:
    """A logger: `last_error()` says what went wrong last.

    Args:
        library: whose.
        keep_all: have `lines` hold every message.
    """
    severity_type = library.module.ILogger

    class Log(library.module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self._error = "it does not say why"

        def log(self, severity: Any, message: str) -> None:
            if keep_all:
                self.lines.append(message)
            if severity in (severity_type.ERROR, severity_type.INTERNAL_ERROR):
                self._error = " ".join(message.split())

        def last_error(self) -> str:
            return self._error

    return Log()
