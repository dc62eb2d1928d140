"""The contract of a backend, and the one place that opens one by name."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.model import Model
from perception_nodes.core.counters import LayerEstimate
from perception_nodes.core.inference import (
    BackendError,
    HeadTensors,
    InferenceBackend,
    Progress,
)

BACKENDS = {
    name: f"perception_nodes.backends.{name}"
    for name in ("openvino", "onnxruntime", "tensorrt", "fpga", "golden", "null")
}
"""Modules by the backend's name, each with a class `Backend`; imported when one is opened."""

INSTALL = {
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt (or tensorrt-rtx; on a Jetson: apt install python3-libnvinfer)",
    "golden": "onnx",
    "fpga": "onnx",
}
"""The package that brings a backend's runtime."""


class NotBuilt(BackendError):
    """A model has to be compiled first, which takes long and was not allowed."""


@dataclass(frozen=True)
class BackendInfo:
    """What was loaded.

    Attributes:
        backend: its name.
        runtime: name and version of the runtime.
        device: what it runs on.
        threads: threads a call may use.
        max_batch: images that it can be given at once; where it is more than one, the backend is a
            `core.inference.BatchBackend` too.
        layers: what each layer is expected to take, where the runtime tells.
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
        threads: threads a call may use; 0 for one a physical core.
        cache_dir: folder for compiled models, empty for none.
        max_batch: images that it may be given at once; a runtime that has nothing to gain from more
            than one prepares for one.
        may_build: `load` may compile a model for minutes; where not, it raises `NotBuilt`.
        progress: told done and total while it does.
    """

    threads: int = 0
    cache_dir: str = ""
    max_batch: int = 1
    may_build: bool = True
    progress: Progress | None = None


class Backend(Protocol):
    """A runtime with one model loaded."""

    def load(self, model: Model) -> BackendInfo:
        """Compile the model and run it once.

        Raises:
            NotBuilt: it would take long, and the settings forbid that.
            BackendError: the runtime refuses the model.
        """
        ...

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network.

        Args:
            image: uint8 [height, width, 3] BGR, contiguous; read in place, not kept.

        Returns:
            The head's tensors; they live until the next call.

        Raises:
            BackendError: the runtime failed.
        """
        ...

    def close(self) -> None:
        """Give the runtime's memory back."""
        ...


@runtime_checkable
class QueuedBackend(Protocol):
    """A backend that several threads can call at once."""

    def queue(self, count: int) -> Sequence[InferenceBackend]:
        """Callers for so many threads.

        Their calls are worked on one after the other, as those of `infer` are, with no time lost
        between them; each one's tensors live until its own next call.

        Raises:
            BackendError: no model is loaded.
        """
        ...


def check_heads(model: Model, heads: HeadTensors) -> None:
    """Compare a network's outputs with what `model.yaml` says of them.

    Raises:
        BackendError: they differ.
    """
    outputs = model.outputs
    channels = {"box": 4 * outputs.reg_max, "class": len(model.classes)}
    named = [
        *(("box", *level) for level in zip(outputs.box, outputs.strides, heads.boxes, strict=True)),
        *(
            ("class", *level)
            for level in zip(outputs.classes, outputs.strides, heads.classes, strict=True)
        ),
    ]
    for kind, name, stride, tensor in named:
        size = (model.input.height // stride, model.input.width // stride)
        described = (1, channels[kind], *size)
        if tensor.shape != described or tensor.dtype != np.float32:
            raise BackendError(
                f"{model.path}: output {name!r} is {tensor.dtype} {tensor.shape}, "
                f"model.yaml describes float32 {described}"
            )


def open_backend(name: str, settings: BackendSettings) -> Backend:
    """Open a backend by name; it is never chosen for you.

    Raises:
        BackendError: the name is unknown or its runtime is not installed.
    """
    if name not in BACKENDS:
        raise BackendError(f"backend {name!r} is unknown; known are {', '.join(BACKENDS)}")
    try:
        module = importlib.import_module(BACKENDS[name])
        backend: Backend = module.Backend(settings)
    except ImportError as error:
        raise BackendError(
            f"backend {name!r} needs a runtime that is not installed ({error}); "
            f"install it with: pip install {INSTALL.get(name, name)}"
        ) from error
    return backend
