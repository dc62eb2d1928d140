"""The contract of a backend, and the one place that opens one by name."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.model import Model
from perception_nodes.core.engine import LayerCost
from perception_nodes.core.pipeline import BackendError, HeadTensors

BACKENDS = ("openvino", "onnxruntime", "fpga", "golden", "null", "faulty")
"""Names of backends; each is a module of this package with a class `Backend`."""

INSTALL = {"openvino": "openvino", "onnxruntime": "onnxruntime", "golden": "onnx", "fpga": "onnx"}
"""The package that brings a backend's runtime."""


@dataclass(frozen=True)
class BackendInfo:
    """What was loaded.

    Attributes:
        backend: its name.
        runtime: name and version of the runtime.
        device: what it runs on.
        threads: threads a call may use.
        layers: what each layer is expected to take, where the runtime tells.
    """

    backend: str
    runtime: str
    device: str
    threads: int
    layers: Sequence[LayerCost] = ()


@dataclass(frozen=True)
class BackendSettings:
    """How a backend runs.

    Attributes:
        threads: threads a call may use; 0 for one a physical core.
        cache_dir: folder for compiled models, empty for none.
    """

    threads: int = 0
    cache_dir: str = ""


class Backend(Protocol):
    """A runtime with one model loaded."""

    def load(self, model: Model) -> BackendInfo:
        """Compile the model and run it once.

        Raises:
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
        module = importlib.import_module(f"perception_nodes.backends.{name}")
    except ImportError as error:
        raise BackendError(
            f"backend {name!r} needs a runtime that is not installed ({error}); "
            f"install it with: pip install {INSTALL.get(name, name)}"
        ) from error
    backend: Backend = module.Backend(settings)
    return backend
