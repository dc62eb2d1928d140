"""A GPU through the CUDA driver API: memory, streams, events, kernels and graphs.

Everything is opened on a `Device` and closed with it at the latest. Only methods named `wait` wait
for the GPU; putting work on a stream does not, and launching a captured graph does not allocate.
A launch has two layers: `Launch.enqueue` or `CudaGraph.launch`, and the driver's function.

    device = open_device()
    frame = device.register(slot)               # in place: nothing is copied
    arguments = Arguments(frame.address, memory.address)
    launch = device.module(cubin).prepare("preprocess", grid, 256, arguments)
    stream = device.stream()
    graph = capture(stream, [
        launch.enqueue,
        lambda stream: stream.copy(result.address, memory.address, result.nbytes),
    ])
    graph.launch(stream)                        # every frame
    stream.wait()
"""

from perception_nodes.gpu.cuda.device import Device, open_device
from perception_nodes.gpu.cuda.errors import CudaError
from perception_nodes.gpu.cuda.kernel import Launch, Module
from perception_nodes.gpu.cuda.memory import DeviceMemory, HostMemory
from perception_nodes.gpu.cuda.stream import CudaGraph, Stream, Uncaptured, capture

__all__ = [
    "CudaError",
    "Device",
    "DeviceMemory",
    "CudaGraph",
    "HostMemory",
    "Launch",
    "Module",
    "Stream",
    "Uncaptured",
    "capture",
    "open_device",
]
