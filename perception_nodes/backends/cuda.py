"""Our own kernels on an NVIDIA GPU: the same bits as the backend `golden`; see docs/cuda.md.

Nothing is built but the kernels themselves, in seconds at the first start; every GPU from Turing on
runs them. An image is copied once on the host, into page-locked memory, and once to the device;
`backends.in_place` makes the network a stage of a larger graph, which copies nothing.
"""

import numpy as np

from perception_nodes.backends.contract import BackendSettings, heads_of
from perception_nodes.backends.gpu_backend import GpuBackend
from perception_nodes.backends.qdq import read_network
from perception_nodes.core.inference import BackendError
from perception_nodes.gpu.cuda import Device, Stream, capture
from perception_nodes.gpu.network_job import NetworkPlan, plan_network
from perception_nodes.gpu.network_stage import NetworkKernels
from perception_nodes.gpu.stages import NetworkStage
from perception_nodes.networks.model import Model


class Backend(GpuBackend):
    """One network, and the graph that runs it on images of the host; no setting has an effect."""

    name = "cuda"

    def __init__(self, settings: BackendSettings) -> None:
        """Wait for `load`."""
        super().__init__()
        self._model: Model
        self._kernels: NetworkKernels

    def _load(self, model: Model, device: Device) -> str:
        """Plan the network, and copy its weights to the GPU."""
        try:
            plan = plan_network(read_network(model.path))
        except BackendError as error:
            raise BackendError(f"{model.path} cannot run on our kernels: {error}") from error
        stream = device.stream()
        self._model, self._kernels = model, NetworkKernels(device, plan, stream)
        self._capture(device, stream, plan)
        return f"{sum(map(len, plan.waves))} convolutions in {len(plan.waves)} launches"

    def another_network(self) -> NetworkStage:
        """See `GpuBackend`."""
        device = self._current_device()
        instance, outputs = self._kernels.instance(), self._model.outputs
        address = instance.memory.address
        heads = [
            (address + instance.outputs[box], address + instance.outputs[classes])
            for box, classes in zip(outputs.box, outputs.classes, strict=True)
        ]
        return NetworkStage(device, address, heads, instance.enqueue)

    def _capture(self, device: Device, stream: Stream, plan: NetworkPlan) -> None:
        """Allocate memory, and capture the graph with the copies from and to the host."""
        instance, model = self._kernels.instance(), self._model
        image = device.pinned(plan.buffers[0])
        pixels = image.array.reshape(plan.graph.tensors[plan.graph.image].height, -1, 3)
        begin = min(instance.outputs.values())
        results = device.pinned(instance.memory.nbytes - begin)
        tensors = {}
        for name, offset in instance.outputs.items():
            tensor, first = plan.graph.tensors[name], offset - begin
            values = results.array[first : first + plan.output_bytes(name)].view(np.float32)
            tensors[name] = values.reshape(1, tensor.channels, tensor.height, tensor.width)
        heads = heads_of(model, tensors)
        address = instance.memory.address
        stages = [
            lambda stream: stream.copy(address, image.address, image.nbytes),
            instance.enqueue,
            lambda stream: stream.copy(results.address, address + begin, results.nbytes),
        ]
        self._stream, self._image, self._heads = stream, pixels, heads
        self._graph = capture(stream, stages)
