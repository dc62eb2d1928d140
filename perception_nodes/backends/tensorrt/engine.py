"""An engine on a GPU: memory is bound to its tensors once, then it is put on a stream."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_nodes.backends.cuda import Stream
from perception_nodes.backends.tensorrt.library import Library, make_log, start
from perception_nodes.core.pipeline import BackendError


class EngineRefused(BackendError):
    """A serialized engine that the runtime does not take."""


@dataclass(frozen=True)
class Tensor:
    """An input or an output, row by row without gaps.

    Attributes:
        name: of the tensor.
        shape: sizes.
        dtype: of the values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Engine:
    """A network, ready to run on the current device.

    Attributes:
        inputs, outputs: its tensors by name.
        addresses: of the device, that they are bound to.
    """

    def __init__(self, library: Library, plan: bytes, kernels: bytes = b"") -> None:
        """Load a serialized engine.

        Args:
            library: that it was built by.
            plan: the engine.
            kernels: of `compiled_kernels`, where that was kept; what does not fit is left.

        Raises:
            EngineRefused: it is damaged, or of another version or GPU.
            BackendError: the runtime cannot start.
        """
        trt = library.module
        self._library, self._log = library, make_log(library)
        self._runtime = start(library, "Runtime", self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineRefused(f"{library.name} refuses the engine: {self._log.last_error()}")
        self._kernels: Any = None
        self._context = self._make_context(kernels)
        if self._context is None:
            raise EngineRefused(f"{library.name} cannot run the engine: {self._log.last_error()}")
        self.addresses: dict[str, int] = {}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(self._engine.get_tensor_shape(name))
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[name] = Tensor(name, shape, dtype)

    def bind(self, name: str, address: int) -> None:
        """Have a tensor lie at an address of the device, which stays until another is bound.

        Raises:
            BackendError: there is no such tensor, or the address is not fit for it.
        """
        if not self._context.set_tensor_address(name, address):
            raise BackendError(f"cannot bind tensor {name!r}: {self._log.last_error()}")
        self.addresses[name] = address

    def enqueue(self, stream: Stream) -> None:
        """Put a run on a stream.

        Raises:
            BackendError: the runtime refuses.
        """
        if not self._context.execute_async_v3(stream.address):
            raise BackendError(f"{self._library.name} failed: {self._log.last_error()}")

    def compiled_kernels(self) -> bytes:
        """What was compiled here at the first run, to be kept; empty where all is in the engine."""
        return b"" if self._kernels is None else bytes(self._kernels.serialize())

    def close(self) -> None:
        """Give its memory back, while the device is still there."""
        self._context = self._kernels = self._engine = self._runtime = None

    def _make_context(self, kernels: bytes) -> Any:
        if not self._library.for_rtx:
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        self._kernels = config.create_runtime_cache()
        if kernels:
            self._kernels.deserialize(kernels)
        config.set_runtime_cache(self._kernels)
        return self._engine.create_execution_context(config)
