"""The integer network as a stage of a frame: its weights on the device, and instances of it."""

from collections.abc import Callable
from dataclasses import dataclass

from perception_nodes.gpu.cuda import Device, DeviceMemory, Stream
from perception_nodes.gpu.cuda.memory import packed
from perception_nodes.gpu.network_job import THREADS, NetworkPlan, build_launches
from perception_nodes.gpu.nvrtc import load_kernels
from perception_nodes.gpu.stages import upload


@dataclass(frozen=True)
class NetworkInstance:
    """A network with memory of its own.

    Attributes:
        memory: memory of all its tensors.
        buffers: offsets of the plan's buffers in it; the first is the image's.
        outputs: offsets of the outputs in it, by name, float32 [channels, height, width].
        enqueue: puts a run on a stream. Runs use the same memory, so one must end before the next.
    """

    memory: DeviceMemory
    buffers: list[int]
    outputs: dict[str, int]
    enqueue: Callable[[Stream], None]


class NetworkKernels:
    """The compiled kernel, and a network's weights on the device."""

    def __init__(self, device: Device, plan: NetworkPlan, stream: Stream) -> None:
        """Compile the kernel, or read it from the cache, and copy the weights.

        Args:
            device: device that it runs on.
            plan: plan of the network.
            stream: stream that is used to copy.

        Raises:
            CudaError: the kernel cannot be compiled or loaded, or there is no room.
        """
        self._device, self._plan = device, plan
        self._kernels = load_kernels(device, "network")
        _, self._constants = upload(device, stream, plan.constants)

    def instance(self) -> NetworkInstance:
        """Another instance of the network.

        Raises:
            CudaError: there is no room for it.
        """
        plan = self._plan
        names = plan.graph.outputs
        offsets, total = packed([*plan.buffers, *map(plan.output_bytes, names)])
        memory = self._device.memory(total)
        buffers = offsets[: len(plan.buffers)]
        outputs = dict(zip(names, offsets[len(plan.buffers) :], strict=True))
        jobs = build_launches(
            plan,
            [memory.address + offset for offset in buffers],
            self._constants,
            {name: memory.address + offset for name, offset in outputs.items()},
        )
        launches = [
            self._kernels.prepare("convolve", (blocks, 1, 1), THREADS, job) for job, blocks in jobs
        ]

        def enqueue(stream: Stream) -> None:
            for launch in launches:
                launch.enqueue(stream)

        return NetworkInstance(memory, buffers, outputs, enqueue)
