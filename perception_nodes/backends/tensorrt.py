"""TensorRT 10 and 11, or TensorRT-RTX: the network as one CUDA graph on a stream of its own.

The engine is built from the model's `s8` file, in which QuantizeLinear and DequantizeLinear nodes
say what is 8-bit. A slot's pixels are copied once on the host, into page-locked memory; on a GPU
that shares its memory with the host (Jetson) there is no other copy. Nothing allocates after
`load`. `backends.in_place` makes the network a stage of a larger graph, which copies nothing.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendSettings, NotBuilt, heads_of
from perception_nodes.backends.gpu_backend import GpuBackend
from perception_nodes.core.inference import BackendError
from perception_nodes.gpu.cuda import CudaError, Device, Stream, Uncaptured, capture
from perception_nodes.gpu.cuda.memory import packed
from perception_nodes.gpu.stages import NetworkStage
from perception_nodes.gpu.tensorrt.build import FLAGS, build
from perception_nodes.gpu.tensorrt.cache import CachedEngine, EngineCache, EngineKey
from perception_nodes.gpu.tensorrt.engine import Engine, EngineRefused, EngineTensor
from perception_nodes.gpu.tensorrt.library import load_library
from perception_nodes.networks.model import Model

DRIVER_VERSION_FILES = ("/sys/module/nvidia/version", "/etc/nv_tegra_release")
"""Files in which a driver states its version: on a desktop, on a Jetson."""


class Backend(GpuBackend):
    """One engine, its memory, and the graph that runs it; of the settings, `threads` is unused."""

    name = "tensorrt"

    def __init__(self, settings: BackendSettings) -> None:
        """Load the TensorRT library.

        Raises:
            ImportError: no runtime is installed.
        """
        super().__init__()
        self._library = load_library()
        self._settings = settings
        self._cache = EngineCache(settings.cache_dir, settings.timing_dir)
        self._engine: Engine | None = None
        self._model: Model

    def _load(self, model: Model, device: Device) -> str:
        """Read the engine from the cache, or build it; capture its graph."""
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
        self._model = model
        cached = self._run_cached(key, device) or self._build(key, device, file)
        runtime = self._library.name
        if cached.convolutions:
            runtime += f", {cached.in_int8} of {cached.convolutions} convolutions in 8 bits"
        if isinstance(self._graph, Uncaptured):
            runtime += ", without a CUDA graph"
        return runtime

    def another_network(self) -> NetworkStage:
        """See `GpuBackend`."""
        device, engine = self._current_device(), self._engine
        assert engine is not None
        execution, outputs = engine.another_execution(), self._model.outputs
        for name, tensor in {**engine.inputs, **engine.outputs}.items():
            execution.bind(name, device.memory(tensor.nbytes).address)
        address = execution.addresses
        heads = zip(outputs.box, outputs.classes, strict=True)
        return NetworkStage(
            device,
            address[self._model.input.name],
            [(address[box], address[classes]) for box, classes in heads],
            execution.enqueue,
            execution.capturable,
        )

    def close(self) -> None:
        """Free the engine, then everything else on the device."""
        if self._engine is not None:
            with suppress(CudaError):
                self._current_device()
            self._engine.close()
            self._engine = None
        super().close()

    def _run_cached(self, key: EngineKey, device: Device) -> CachedEngine | None:
        """Run the engine in the cache; None if there is none, or the runtime refuses it."""
        if (cached := self._cache.read(key)) is None:
            return None
        kernels = self._cache.kept(key, "kernels")
        try:
            engine = Engine(device, self._library, cached.plan, kernels)
        except EngineRefused:
            # The file is undamaged and yet the runtime refuses it: build the engine again.
            return None
        self._run(engine, device)
        if (compiled := engine.compiled_kernels()) != kernels:
            self._cache.keep(key, "kernels", compiled)
        return cached

    def _build(self, key: EngineKey, device: Device, file: Path) -> CachedEngine:
        """Build the engine and run it; if another process builds it, wait for that one."""
        if not self._settings.may_build:
            remedy = f"build it with: perception model compile {key.model} --backend tensorrt"
            raise NotBuilt(f"the engine of {key.model} for {key.gpu} is not built yet; {remedy}")
        with self._cache.lock():
            if (cached := self._run_cached(key, device)) is not None:
                return cached
            timing = self._cache.read_timing(key)
            built = build(self._library, file, timing=timing, progress=self._settings.progress)
            self._cache.write_timing(key, built.timing)
            engine = Engine(device, self._library, built.plan)
            # An engine that does not run must not be found by the next start.
            self._run(engine, device)
            in_int8 = sum(one.in_int8 for one in built.convolutions)
            cached = CachedEngine(built.plan, len(built.convolutions), in_int8)
            self._cache.keep(key, "kernels", engine.compiled_kernels())
            self._cache.write(key, cached)
        return cached

    def _run(self, engine: Engine, device: Device) -> None:
        """Allocate and bind memory, and capture the graph, which runs it once."""
        self._engine, model = engine, self._model
        stream = device.stream()
        size = (1, model.input.height, model.input.width, 3)
        image = engine.inputs.get(model.input.name)
        if len(engine.inputs) != 1 or image is None or image.shape != size:
            given = f"the network's inputs are {list(engine.inputs.values())}"
            wanted = f"model.yaml describes {model.input.name!r}, uint8 {size}"
            raise BackendError(f"{model.folder}: {given}, {wanted}")
        before, images = _bind(device, engine, engine.inputs)
        after, views = _bind(device, engine, engine.outputs)
        stages = [*before, engine.execution.enqueue, *after]
        self._stream, self._image = stream, images[model.input.name][0]
        self._heads = heads_of(model, views)
        self._graph = capture(stream, stages, engine.execution.capturable(stream))


def _bind(
    device: Device, engine: Engine, tensors: Mapping[str, EngineTensor]
) -> tuple[list[Callable[[Stream], None]], dict[str, NDArray[Any]]]:
    """Bind an engine's inputs or outputs to memory of the device.

    Returns:
        A function that copies them as one block from or to the host, and a view of each on the
        host.
    """
    offsets, total = packed([tensor.nbytes for tensor in tensors.values()])
    host = device.pinned(total)
    first, copies = host.address, list[Callable[[Stream], None]]()
    if not device.facts.integrated:
        first = device.memory(total).address
        ends = (first, host.address) if tensors is engine.inputs else (host.address, first)
        copies = [lambda stream: stream.copy(*ends, total)]
    views = {}
    for offset, (name, tensor) in zip(offsets, tensors.items(), strict=True):
        engine.execution.bind(name, first + offset)
        content = host.array[offset : offset + tensor.nbytes]
        views[name] = content.view(tensor.dtype).reshape(tensor.shape)
    return copies, views


def driver_version(device: Device) -> str:
    """Version of the driver: its CUDA version, and a hash of its build if that can be read."""
    builds = []
    for name in DRIVER_VERSION_FILES:
        with suppress(OSError):
            builds.append(hashlib.sha256(Path(name).read_bytes()).hexdigest()[:12])
    return "-".join([str(device.facts.driver_cuda), *builds])
