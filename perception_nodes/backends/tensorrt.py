"""TensorRT 10 and 11, or TensorRT-RTX: the network as one CUDA graph on a stream of its own.

The engine is built from the model's `s8` file, in which QuantizeLinear and DequantizeLinear nodes
say what is 8-bit. A slot's pixels are copied once on the host, into page-locked memory; on a GPU
that shares its memory with the host (Jetson) there is no other copy. Nothing allocates after
`load`. `backends.in_place` makes the network a stage of a larger graph, which copies nothing.
"""

import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import (
    BackendInfo,
    BackendSettings,
    NotBuilt,
    check_heads,
)
from perception_nodes.backends.model import Model
from perception_nodes.core.inference import BackendError, BackendLost, HeadTensors
from perception_nodes.gpu.cuda import (
    CudaError,
    CudaGraph,
    Device,
    HostMemory,
    Stream,
    capture,
    open_device,
)
from perception_nodes.gpu.cuda.memory import packed
from perception_nodes.gpu.stages import NetworkStage
from perception_nodes.gpu.tensorrt.build import FLAGS, build
from perception_nodes.gpu.tensorrt.cache import CachedEngine, EngineCache, EngineKey
from perception_nodes.gpu.tensorrt.engine import Engine, EngineRefused
from perception_nodes.gpu.tensorrt.library import load_library

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
        self._cache = EngineCache(settings.cache_dir)
        self._device: Device | None = None
        self._engine: Engine | None = None
        self._model: Model | None = None
        self._graph: CudaGraph | None = None
        self._stream: Stream
        self._image: NDArray[np.uint8]
        self._heads = HeadTensors([], [])
        self._thread = 0

    def load(self, model: Model) -> BackendInfo:
        """Read the engine from the cache, or build it; capture its graph and run it once.

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
            self._engine, cached = self._open(key, file)
            self._prepare(model, self._engine)
            self._model = model
            if kernels := self._engine.compiled_kernels():
                self._cache.write_kernels(key, kernels)
        except BaseException:
            self.close()
            raise
        types = f", {cached.in_int8} of {cached.convolutions} convolutions in 8 bits"
        runtime = self._library.name + (types if cached.convolutions else "")
        return BackendInfo("tensorrt", runtime, f"{device.facts.name} (SM{device.facts.sm})", 1)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on a copy of the image.

        Raises:
            BackendLost: the device failed; CUDA answers every later call with the same error.
        """
        if self._graph is None or self._device is None:
            raise BackendError("tensorrt: no model is loaded")
        if self._thread != threading.get_ident():
            self._device.make_current()
            self._thread = threading.get_ident()
        np.copyto(self._image, image)
        try:
            self._graph.launch(self._stream)
            self._stream.wait()
        except CudaError as error:
            raise BackendLost(str(error)) from error
        return self._heads

    def another_network(self) -> NetworkStage:
        """Another instance of the model, as a stage of a graph; see `backends.in_place`.

        Raises:
            BackendError: no model is loaded, or the GPU has no room.
        """
        if self._engine is None or self._device is None or self._model is None:
            raise BackendError("tensorrt: no model is loaded")
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
        )

    def close(self) -> None:
        """Free the engine, then everything else on the device."""
        self._heads = HeadTensors([], [])
        self._graph = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        if self._device is not None:
            with suppress(CudaError):
                self._device.close()
            self._device = None

    def _open(self, key: EngineKey, file: Path) -> tuple[Engine, CachedEngine]:
        """Read the engine from the cache or build it; if another process builds it, wait for it."""
        if (opened := self._open_cached(key)) is not None:
            return opened
        if not self._settings.may_build:
            raise NotBuilt(
                f"the engine of {key.model} for {key.gpu} is not built yet; build it with: "
                f"perception model compile {key.model} --backend tensorrt"
            )
        with self._cache.lock():
            if (opened := self._open_cached(key)) is not None:
                return opened
            timing = self._cache.read_timing(key)
            built = build(self._library, file, timing=timing, progress=self._settings.progress)
            in_int8 = sum(one.in_int8 for one in built.convolutions)
            cached = CachedEngine(built.plan, len(built.convolutions), in_int8)
            engine = Engine(self._library, built.plan)
            self._cache.write(key, cached)
            self._cache.write_timing(key, built.timing)
        return engine, cached

    def _open_cached(self, key: EngineKey) -> tuple[Engine, CachedEngine] | None:
        cached = self._cache.read(key)
        if cached is None:
            return None
        try:
            return Engine(self._library, cached.plan, self._cache.read_kernels(key)), cached
        except EngineRefused:
            # The file is undamaged and yet the runtime refuses it: build the engine again.
            return None

    def _prepare(self, model: Model, engine: Engine) -> None:
        """Allocate and bind memory, capture the graph, and run it once."""
        device = self._device
        assert device is not None
        self._stream = stream = device.stream()
        size = (1, model.input.height, model.input.width, 3)
        image = engine.inputs.get(model.input.name)
        if len(engine.inputs) != 1 or image is None or image.shape != size:
            raise BackendError(
                f"{model.folder}: the network's inputs are {list(engine.inputs.values())}, "
                f"model.yaml describes {model.input.name!r}, uint8 {size}"
            )
        names = [*model.outputs.box, *model.outputs.classes]
        if missing := [name for name in names if name not in engine.outputs]:
            raise BackendError(f"{model.folder}: the network has no output {missing[0]!r}")
        before, image_memory = self._input(engine, model.input.name, image.nbytes)
        after, views = self._outputs(engine)
        self._image = image_memory.array.reshape(size[1:])
        boxes = len(model.outputs.box)
        tensors = [views[name] for name in names]
        self._heads = HeadTensors(tensors[:boxes], tensors[boxes:])
        check_heads(model, self._heads)
        self._graph = capture(stream, [*before, engine.execution.enqueue, *after])
        self._thread = threading.get_ident()
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
        return [lambda stream: stream.copy_to_device(memory, host)], host

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
            after = [lambda stream: stream.copy_to_host(host, memory)]
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
