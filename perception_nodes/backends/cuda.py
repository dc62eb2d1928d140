"""Our own kernels on an NVIDIA GPU: the same bits as the backend `golden`; see docs/cuda.md.

Nothing is built but the kernels themselves, in seconds at the first start; every GPU from Turing on
runs them. An image is copied once on the host, into page-locked memory, and once to the device;
`backends.in_place` makes the network a stage of a larger graph, which copies nothing.
"""

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.captured import CapturedNetwork
from perception_nodes.backends.contract import BackendInfo, BackendSettings, heads_of
from perception_nodes.backends.qdq import read_network
from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.gpu.cuda import CudaError, Device, Stream, capture, open_device
from perception_nodes.gpu.network_job import NetworkPlan, plan_network
from perception_nodes.gpu.network_stage import NetworkKernels
from perception_nodes.gpu.stages import NetworkStage
from perception_nodes.networks.model import Model


class Backend:
    """One network, and the graph that runs it on images of the host; no setting has an effect."""

    def __init__(self, settings: BackendSettings) -> None:
        """Wait for `load`."""
        self._device: Device | None = None
        self._model: Model
        self._kernels: NetworkKernels
        self._network: CapturedNetwork | None = None

    def load(self, model: Model) -> BackendInfo:
        """Plan the network, copy its weights to the GPU, and run it once."""
        self.close()
        try:
            plan = plan_network(read_network(model.path))
        except BackendError as error:
            raise BackendError(f"{model.path} cannot run on our kernels: {error}") from error
        self._device = device = open_device()
        try:
            stream = device.stream()
            self._model, self._kernels = model, NetworkKernels(device, plan, stream)
            self._network = self._capture(device, stream, plan)
            self.infer(np.zeros((model.input.height, model.input.width, 3), np.uint8))
        except BaseException:
            self.close()
            raise
        layers = sum(len(wave) for wave in plan.waves)
        runtime = f"{layers} convolutions in {len(plan.waves)} launches"
        return BackendInfo("cuda", runtime, f"{device.facts.name} (SM{device.facts.sm})", 1)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on a copy of the image; see `CapturedNetwork`."""
        if self._network is None:
            raise BackendError("cuda: no model is loaded")
        return self._network.infer(image)

    def another_network(self) -> NetworkStage:
        """Another instance of the model, as a stage of a graph; see `backends.in_place`.

        Raises:
            BackendError: no model is loaded, or the GPU has no room.
        """
        if self._device is None:
            raise BackendError("cuda: no model is loaded")
        self._device.make_current()
        instance, outputs = self._kernels.instance(), self._model.outputs
        address = instance.memory.address
        heads = [
            (address + instance.outputs[box], address + instance.outputs[classes])
            for box, classes in zip(outputs.box, outputs.classes, strict=True)
        ]
        return NetworkStage(self._device, address, heads, instance.enqueue)

    def close(self) -> None:
        """Free everything on the device."""
        self._network = None
        if self._device is not None:
            with suppress(CudaError):
                # After a kernel has failed, every call fails, including this.
                self._device.make_current()
            with suppress(CudaError):
                self._device.close()
            self._device = None

    def _capture(self, device: Device, stream: Stream, plan: NetworkPlan) -> CapturedNetwork:
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
        graph = capture(stream, stages)
        return CapturedNetwork("cuda", device, stream, graph, pixels, heads)
