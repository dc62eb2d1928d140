"""Running an engine: memory is bound to its tensors once, then runs are put on a stream."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from perception_nodes.core.inference import BackendError
from perception_nodes.gpu.cuda import Device, DeviceMemory, Stream
from perception_nodes.gpu.tensorrt.library import Library, make_log, start


class EngineRefused(BackendError):
    """The runtime refuses a serialized engine."""


@dataclass(frozen=True)
class EngineTensor:
    """An input or an output of an engine, contiguous in memory.

    Attributes:
        name: name of the tensor.
        shape: sizes of its dimensions.
        dtype: type of its values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Execution:
    """Runs an engine with working memory of its own, so that several can run at once.

    Attributes:
        addresses: device addresses that tensors are bound to, by name.
    """

    def __init__(
        self, context: Any, library: Library, log: Any, memory: DeviceMemory | None
    ) -> None:
        self._context, self._library, self._log = context, library, log
        self._memory = memory
        self.addresses: dict[str, int] = {}
        if memory is not None:
            context.set_device_memory(memory.address, memory.nbytes)

    def bind(self, name: str, address: int) -> None:
        """Bind a tensor to a device address, until another one is bound.

        Raises:
            BackendError: there is no such tensor, or the address is unsuitable.
        """
        if not self._context.set_tensor_address(name, address):
            raise BackendError(f"cannot bind tensor {name!r}: {self._log.last_error()}")
        self.addresses[name] = address

    def enqueue(self, stream: Stream) -> None:
        """Put a run on a stream.

        Raises:
            BackendError: the runtime failed.
        """
        if not self._context.execute_async_v3(stream.handle):
            raise BackendError(f"{self._library.name} failed: {self._log.last_error()}")

    def capturable(self, stream: Stream) -> bool:
        """Whether runs on a stream can be captured in a graph; TensorRT itself always allows it."""
        return not self._library.for_rtx or bool(self._context.is_stream_capturable(stream.handle))

    def close(self) -> None:
        """Free the working memory."""
        self._context = None
        if self._memory is not None:
            self._memory.close()


class Engine:
    """A network that is ready to run on the current device.

    Attributes:
        inputs, outputs: its tensors by name.
        execution: its first execution.
    """

    def __init__(self, device: Device, library: Library, plan: bytes, kernels: bytes = b""):
        """Load a serialized engine.

        Args:
            device: device that it runs on.
            library: TensorRT library that built it.
            plan: the serialized engine.
            kernels: kept result of `compiled_kernels`, or empty; ignored if it does not fit.

        Raises:
            EngineRefused: the engine is damaged, or was built for another version or GPU.
            BackendError: the runtime cannot start, or has no memory for the engine.
        """
        trt = library.module
        self._device, self._library, self._log = device, library, make_log(library)
        self._runtime = start(library, "Runtime", self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            if self._log.lacks_memory():
                raise self._no_room()
            raise EngineRefused(f"{library.name} refuses the engine: {self._log.last_error()}")
        # TensorRT-RTX compiles kernels at the first run; this cache receives them.
        self._kernels: Any = None
        self._options: list[Any] = []
        if library.for_rtx:
            self._options.append(self._engine.create_runtime_config())
            self._kernels = self._options[0].create_runtime_cache()
            if kernels:
                self._kernels.deserialize(kernels)
            self._options[0].set_runtime_cache(self._kernels)
            # As the engine was built, see `build`.
            strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            self._options[0].set_execution_context_allocation_strategy(strategy)
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
        """Make another execution, to run beside the others; it closes with the engine.

        Raises:
            BackendError: the runtime cannot run the engine: mostly, it has no memory for it.
        """
        if (context := self._engine.create_execution_context(*self._options)) is None:
            raise self._no_room()
        memory = None
        if self._library.for_rtx:
            memory = self._device.memory(max(1, self._engine.device_memory_size_v2))
        self._executions.append(Execution(context, self._library, self._log, memory))
        return self._executions[-1]

    def _no_room(self) -> BackendError:
        return BackendError(
            f"{self._library.name} cannot run the engine: {self._log.last_error()}; if the GPU's "
            "memory is full, end other processes on it (nvidia-smi), or use a smaller model"
        )

    def compiled_kernels(self) -> bytes:
        """Kernels that were compiled at the first run, to be kept; empty if there are none."""
        return b"" if self._kernels is None else bytes(self._kernels.serialize())

    def close(self) -> None:
        """Free the engine's memory; the device must still be open."""
        for execution in self._executions:
            execution.close()
        self._options.clear()
        self._kernels = self._engine = self._runtime = None
