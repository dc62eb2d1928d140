"""TensorRT 10 and 11, or TensorRT-RTX: the network as one CUDA graph on a stream of its own.

The engine is built from the model's `s8` file, in which QuantizeLinear and DequantizeLinear nodes
say what is 8-bit. A slot's pixels are copied once on the host, into page-locked memory; on a GPU
that shares its memory with the host (Jetson) there is no other copy. Nothing allocates after
`load`. `backends.in_place` makes the network a stage of a larger graph, which copies nothing.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.captured import CapturedNetwork
from perception_nodes.backends.contract import BackendInfo, BackendSettings, NotBuilt, heads_of
from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.gpu.cuda import (
    CudaError,
    Device,
    HostMemory,
    Stream,
    Uncaptured,
    capture,
    open_device,
)
from perception_nodes.gpu.cuda.memory import packed
from perception_nodes.gpu.stages import NetworkStage
from perception_nodes.gpu.tensorrt.build import FLAGS, build
from perception_nodes.gpu.tensorrt.cache import CachedEngine, EngineCache, EngineKey
from perception_nodes.gpu.tensorrt.engine import Engine, EngineRefused
from perception_nodes.gpu.tensorrt.library import load_library
from perception_nodes.networks.model import Model

DRIVER_VERSION_FILES = ("/sys/module/nvidia/version", "/etc/nv_tegra_release")
"""Files in which a driver states its version: on a desktop, on a Jetson."""


class Backend:
    """One engine, its memory, and the graph that runs it; of the settings, `threads` is unused."""

    def __init__(self, settings: BackendSettings) -> None:
        """Load the TensorRT library.

        Raises:
            ImportError: no runtime is installed.
        """
        self._library = load_library()
        self._settings = settings
        self._cache = EngineCache(settings.cache_dir, settings.timing_dir)
        self._device: Device | None = None
        self._engine: Engine | None = None
        self._model: Model | None = None
        self._network: CapturedNetwork | None = None

    def load(self, model: Model) -> BackendInfo:
        """Read the engine from the cache, or build it; capture its graph and run it.

        Raises:
            NotBuilt: the engine is not in the cache, and the settings do not allow a build.
            BackendError: there is no GPU, or the runtime refuses the model.
        """
        self._device = device = open_device()
        try:
            device.require_cuda(self._library.cuda, self._library.name)
            file, sha256 = model.signed_file()
            key = EngineKey(
                model=model.name,
                onnx_sha256=sha256,
                library=self._library.name,
                gpu=device.facts.name,
                sm=device.facts.sm,
                driver=driver_version(device),
                precision=model.precision,
                flags=FLAGS,
            )
            cached = self._run_cached(model, key) or self._build(model, key, file)
            self._model = model
        except BaseException:
            self.close()
            raise
        assert self._network is not None
        runtime = self._library.name
        if cached.convolutions:
            runtime += f", {cached.in_int8} of {cached.convolutions} convolutions in 8 bits"
        if isinstance(self._network.graph, Uncaptured):
            runtime += ", without a CUDA graph"
        return BackendInfo("tensorrt", runtime, f"{device.facts.name} (SM{device.facts.sm})", 1)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on a copy of the image; see `CapturedNetwork`."""
        if self._network is None:
            raise BackendError("tensorrt: no model is loaded")
        return self._network.infer(image)

    def another_network(self) -> NetworkStage:
        """Another instance of the model, as a stage of a graph; see `backends.in_place`.

        Raises:
            BackendError: no model is loaded, or the GPU has no room.
        """
        if self._engine is None or self._device is None or self._model is None:
            raise BackendError("tensorrt: no model is loaded")
        self._device.make_current()
        execution, outputs = self._engine.another_execution(), self._model.outputs
        for name, tensor in {**self._engine.inputs, **self._engine.outputs}.items():
            execution.bind(name, self._device.memory(tensor.nbytes).address)
        address = execution.addresses
        heads = zip(outputs.box, outputs.classes, strict=True)
        return NetworkStage(
            self._device,
            address[self._model.input.name],
            [(address[box], address[classes]) for box, classes in heads],
            execution.enqueue,
            execution.capturable,
        )

    def close(self) -> None:
        """Free the engine, then everything else on the device."""
        self._network = None
        if self._device is not None:
            with suppress(CudaError):
                # After a kernel has failed, every call fails, including these.
                self._device.make_current()
            if self._engine is not None:
                self._engine.close()
                self._engine = None
            with suppress(CudaError):
                self._device.close()
            self._device = None

    def _run_cached(self, model: Model, key: EngineKey) -> CachedEngine | None:
        """Run the engine in the cache; None if there is none, or the runtime refuses it."""
        assert self._device is not None
        cached = self._cache.read(key)
        if cached is None:
            return None
        kernels = self._cache.read_kernels(key)
        try:
            engine = Engine(self._device, self._library, cached.plan, kernels)
        except EngineRefused:
            # The file is undamaged and yet the runtime refuses it: build the engine again.
            return None
        self._run(model, engine)
        if (compiled := engine.compiled_kernels()) != kernels:
            self._cache.write_kernels(key, compiled)
        return cached

    def _build(self, model: Model, key: EngineKey, file: Path) -> CachedEngine:
        """Build the engine and run it; if another process builds it, wait for that one."""
        assert self._device is not None
        if not self._settings.may_build:
            raise NotBuilt(
                f"the engine of {key.model} for {key.gpu} is not built yet; build it with: "
                f"perception model compile {key.model} --backend tensorrt"
            )
        with self._cache.lock():
            if (cached := self._run_cached(model, key)) is not None:
                return cached
            timing = self._cache.read_timing(key)
            built = build(self._library, file, timing=timing, progress=self._settings.progress)
            self._cache.write_timing(key, built.timing)
            engine = Engine(self._device, self._library, built.plan)
            # An engine that does not run must not be found by the next start.
            self._run(model, engine)
            in_int8 = sum(one.in_int8 for one in built.convolutions)
            cached = CachedEngine(built.plan, len(built.convolutions), in_int8)
            self._cache.write_kernels(key, engine.compiled_kernels())
            self._cache.write(key, cached)
        return cached

    def _run(self, model: Model, engine: Engine) -> None:
        """Allocate and bind memory, capture the graph, and run it once."""
        self._engine, device = engine, self._device
        assert device is not None
        stream = device.stream()
        size = (1, model.input.height, model.input.width, 3)
        image = engine.inputs.get(model.input.name)
        if len(engine.inputs) != 1 or image is None or image.shape != size:
            raise BackendError(
                f"{model.folder}: the network's inputs are {list(engine.inputs.values())}, "
                f"model.yaml describes {model.input.name!r}, uint8 {size}"
            )
        before, image_memory = self._input(engine, model.input.name, image.nbytes)
        after, views = self._outputs(engine)
        heads = heads_of(model, views)
        stages = [*before, engine.execution.enqueue, *after]
        graph = capture(stream, stages, engine.execution.capturable(stream))
        pixels = image_memory.array.reshape(size[1:])
        self._network = CapturedNetwork("tensorrt", device, stream, graph, pixels, heads)
        self.infer(np.zeros(size[1:], np.uint8))

    def _input(
        self, engine: Engine, name: str, nbytes: int
    ) -> tuple[list[Callable[[Stream], None]], HostMemory]:
        """Host memory for frames, and the stages that bring a frame to the engine."""
        device = self._device
        assert device is not None
        host = device.pinned(nbytes)
        if device.facts.integrated:
            engine.execution.bind(name, host.address)
            return [], host
        memory = device.memory(nbytes)
        engine.execution.bind(name, memory.address)
        return [lambda stream: stream.copy(memory.address, host.address, nbytes)], host

    def _outputs(
        self, engine: Engine
    ) -> tuple[list[Callable[[Stream], None]], dict[str, NDArray[np.float32]]]:
        """Stages that copy the outputs to the host, as one block, and a view of each output."""
        device = self._device
        assert device is not None
        offsets, total = packed([tensor.nbytes for tensor in engine.outputs.values()])
        host = device.pinned(total)
        after: list[Callable[[Stream], None]] = []
        base = host.address
        if not device.facts.integrated:
            memory = device.memory(total)
            base = memory.address
            after = [lambda stream: stream.copy(host.address, memory.address, total)]
        views = {}
        for offset, (name, tensor) in zip(offsets, engine.outputs.items(), strict=True):
            engine.execution.bind(name, base + offset)
            content = host.array[offset : offset + tensor.nbytes]
            views[name] = content.view(tensor.dtype).reshape(tensor.shape)
        return after, views


def driver_version(device: Device) -> str:
    """Version of the driver: its CUDA version, and a hash of its build if that can be read."""
    builds = []
    for name in DRIVER_VERSION_FILES:
        with suppress(OSError):
            builds.append(hashlib.sha256(Path(name).read_bytes()).hexdigest()[:12])
    return "-".join([str(device.facts.driver_cuda), *builds])
