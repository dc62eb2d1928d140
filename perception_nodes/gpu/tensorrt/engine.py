"""An engine on a GPU: memory is bound to its tensors once, then it is put on a stream."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_nodes.core.inference import BackendError
from perception_nodes.gpu.cuda import Stream
from perception_nodes.gpu.tensorrt.library import Library, make_log, start


class EngineRefused(BackendError):
    """A serialized engine that the runtime does not take."""


@dataclass(frozen=True)
class EngineTensor:
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


class Execution:
    """Runs an engine, with working memory of its own: several may be under way at once.

    Attributes:
        addresses: the device's, that tensors are bound to.
    """

    def __init__(self, context: Any, library: Library, log: Any) -> None:
        """Made by `Engine.execution`."""
        self._context, self._library, self._log = context, library, log
        self.addresses: dict[str, int] = {}

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

    def close(self) -> None:
        """Give its memory back."""
        self._context = None


class Engine:
    """A network, ready to run on the current device.

    Attributes:
        inputs, outputs: its tensors by name.
        execution: the first one.
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
        # TensorRT-RTX compiles kernels at the first run, and is told where they are kept.
        self._kernels: Any = None
        self._options: list[Any] = []
        if library.for_rtx:
            self._options.append(self._engine.create_runtime_config())
            self._kernels = self._options[0].create_runtime_cache()
            if kernels:
                self._kernels.deserialize(kernels)
            self._options[0].set_runtime_cache(self._kernels)
        self._executions: list[Execution] = []
        self.execution = self.another_execution()
        self.inputs: dict[str, EngineTensor] = {}
        self.outputs: dict[str, EngineTensor] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(self._engine.get_tensor_shape(name))
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name)))
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[name] = EngineTensor(name, shape, dtype)

    def another_execution(self) -> Execution:
        """One to be under way beside the others; it closes with the engine.

        Raises:
            EngineRefused: the runtime cannot run the engine, or has no room to.
        """
        context = self._engine.create_execution_context(*self._options)
        if context is None:
            raise EngineRefused(
                f"{self._library.name} cannot run the engine: {self._log.last_error()}"
            )
        self._executions.append(Execution(context, self._library, self._log))
        return self._executions[-1]

    def compiled_kernels(self) -> bytes:
        """What was compiled here at the first run, to be kept; empty where all is in the engine."""
        return b"" if self._kernels is None else bytes(self._kernels.serialize())

    def close(self) -> None:
        """Give its memory back, while the device is still there."""
        for execution in self._executions:
            execution.close()
        self._options.clear()
        self._kernels = self._engine = self._runtime = None
