"""The contract that each backend fulfils, and the one place that opens a backend by name."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.counters import LayerEstimate
from perception_nodes.core.inference import BackendError, HeadTensors, InferenceBackend, Progress
from perception_nodes.networks.model import Model

BACKENDS = {
    name: f"perception_nodes.backends.{name}"
    for name in ("openvino", "onnxruntime", "tensorrt", "cuda", "fpga", "litert", "golden", "null")
}
"""Module of each backend, with a class `Backend`; it is imported when the backend is opened."""

INSTALL = {
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt (or tensorrt-rtx; on a Jetson: apt install python3-libnvinfer)",
    "cuda": "onnx",
    "golden": "onnx",
    "fpga": "onnx",
    "litert": "ai-edge-litert",
}
"""The package to install for each backend."""


class NotBuilt(BackendError):
    """The model must be compiled first, which takes long and which the settings do not allow."""


@dataclass(frozen=True)
class BackendInfo:
    """Facts about a backend with a model loaded.

    Attributes:
        backend: name of the backend.
        runtime: name and version of the runtime.
        device: what it runs on.
        threads: number of threads that a call may use.
        max_batch: number of images that a call may have; if it is more than one, the backend is
            also a `core.inference.BatchBackend`.
        layers: expected cost of each layer, if the runtime provides it.
    """

    backend: str
    runtime: str
    device: str
    threads: int
    max_batch: int = 1
    layers: Sequence[LayerEstimate] = ()


@dataclass(frozen=True)
class BackendSettings:
    """How a backend runs.

    Attributes:
        threads: number of threads that a call may use; 0 for one per physical core.
        cache_dir: folder for compiled models, empty for none.
        max_batch: number of images that a call may have; a runtime that gains nothing from batches
            ignores it.
        may_build: whether `load` may compile a model for minutes; if not, it raises `NotBuilt`.
        progress: called during compilation.
        timing_dir: folder for measurements of this machine that help to compile any model, if they
            are not to lie in `cache_dir`.
    """

    threads: int = 0
    cache_dir: str = ""
    max_batch: int = 1
    may_build: bool = True
    progress: Progress | None = None
    timing_dir: str = ""


class Backend(Protocol):
    """A runtime with one model loaded."""

    def load(self, model: Model) -> BackendInfo:
        """Compile the model and run it once.

        Raises:
            NotBuilt: compilation would take long, and the settings do not allow it.
            BackendError: the runtime refuses the model.
        """

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network.

        Args:
            image: uint8 [height, width, 3] BGR, contiguous; read in place, not kept.

        Returns:
            The head's tensors, which the next call overwrites.

        Raises:
            BackendError: the runtime failed.
        """

    def close(self) -> None:
        """Free the runtime's memory."""


class QueuedCaller(InferenceBackend, Protocol):
    """A backend for one of several threads that share a loaded model."""

    @property
    def ended_ns(self) -> int:
        """CLOCK_MONOTONIC at which the last call ended, however late its thread went on."""


@runtime_checkable
class QueuedBackend(Protocol):
    """A backend that several threads can call at once."""

    def queue(self, count: int) -> Sequence[QueuedCaller]:
        """One backend for each of `count` threads, all with the same loaded model.

        Calls run one after the other, with no time lost between them. The tensors that one of these
        backends returns are overwritten only by its own next call.

        Raises:
            BackendError: no model is loaded.
        """


def check_image(backend: str, image: NDArray[np.uint8], width: int, height: int) -> None:
    """Check that an image has the type and size of a network's input.

    Raises:
        BackendError: it differs.
    """
    expected = (height, width, 3)
    if image.dtype != np.uint8 or image.shape != expected:
        given = f"{image.dtype} {image.shape}"
        raise BackendError(f"{backend}: the image is {given}, not uint8 {expected}")


def check_count(backend: str, images: Sequence[object], most: int) -> None:
    """Refuse more images at once than the backend was loaded for, by a `BackendError`."""
    if len(images) > most:
        raise BackendError(f"{backend}: {len(images)} images at once; it was loaded for {most}")


def heads_of(
    model: Model, tensors: Mapping[str, NDArray[np.float32]], file: str = ""
) -> HeadTensors:
    """The head's tensors among a network's outputs, if they are as `model.yaml` describes them.

    Args:
        model: the model.
        tensors: the outputs by name.
        file: what the runtime has read, if it is not the model's own file.

    Raises:
        BackendError: an output is missing, or has another shape or type.
    """
    outputs = model.outputs
    names = [*outputs.box, *outputs.classes]
    shapes = [shape for part in outputs.shapes(model.input, len(model.classes)) for shape in part]
    for name, shape in zip(names, shapes, strict=True):
        if name not in tensors:
            raise BackendError(f"{file or model.path} has no output {name!r}")
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype != np.float32:
            given = f"output {name!r} is {tensor.dtype} {tensor.shape}"
            raise BackendError(f"{model.path}: {given}, model.yaml describes float32 {shape}")
    return HeadTensors([tensors[n] for n in outputs.box], [tensors[n] for n in outputs.classes])


def open_backend(name: str, settings: BackendSettings) -> Backend:
    """Open a backend by name.

    Raises:
        BackendError: the name is unknown, its runtime is not installed, or the number of threads
            was to be measured before.
    """
    if settings.threads < 0:
        raise BackendError("threads:=auto is for perception run and launch files; name a number")
    if name not in BACKENDS:
        raise BackendError(f"backend {name!r} is unknown; known are {', '.join(BACKENDS)}")
    try:
        backend: Backend = importlib.import_module(BACKENDS[name]).Backend(settings)
    except ImportError as error:
        why = f"needs a runtime that is not installed ({error})"
        remedy = f"install it with: pip install {INSTALL.get(name, name)}"
        raise BackendError(f"backend {name!r} {why}; {remedy}") from error
    return backend


@contextmanager
def open_model(
    name: str, model: Model, settings: BackendSettings | None = None
) -> Iterator[Backend]:
    """A backend with a model loaded, which is closed at the end.

    Raises:
        BackendError: see `open_backend`; or the runtime refuses the model.
    """
    backend = open_backend(name, settings or BackendSettings())
    try:
        backend.load(model)
        yield backend
    finally:
        backend.close()
