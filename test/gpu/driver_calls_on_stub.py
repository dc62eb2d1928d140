"""Calls every function of the driver, over the stub of libcuda, and checks the answers.

test_cuda_stub.py runs it with that library in LD_LIBRARY_PATH.
"""

import ctypes
import sys
import threading

import numpy as np

from perception_nodes.core.structures import fields
from perception_nodes.gpu.cuda import CudaError, CudaGraph, capture, open_device

COUNT = 1000


class Arguments(ctypes.Structure):
    _fields_ = fields("uint64 source, to; int32 count; uint8 added")


def refused(name, text, function, *arguments):
    try:
        function(*arguments)
    except CudaError as error:
        assert error.name == name and text in str(error), error
    else:
        raise AssertionError(text)


device = open_device()
facts = device.facts
assert facts.through.startswith(sys.argv[1])
assert (facts.name, facts.sm, facts.memory_bytes) == ("Stub GPU 0", 87, 1 << 24)
assert facts.integrated and facts.driver_cuda == 13000
stream = device.stream()
first, last = device.event(), device.event()
slot = np.zeros(COUNT, np.uint8)
frame = device.register(slot)
source, result = device.pinned(COUNT), device.pinned(COUNT)
memory, sum_ = device.memory(COUNT), device.memory(COUNT)
source.array[:] = np.arange(COUNT) % 256
kernels = device.module(b"cubin")
arguments = Arguments(memory.address, sum_.address, COUNT, 5)
launch = kernels.prepare("add", (16, 1, 1), 64, arguments)

stream.copy(memory.address, source.address, COUNT)
launch.enqueue(stream)
stream.copy(result.address, sum_.address, COUNT)
stream.wait()
assert (result.array == source.array + 5).all()

stream.fill(memory, 9)
stream.copy(result.address, memory.address, COUNT)
stream.wait()
assert (result.array == 9).all()

arguments.source, arguments.added = frame.address, 1
graph = capture(
    stream, [launch.enqueue, lambda stream: stream.copy(result.address, sum_.address, COUNT)]
)
assert isinstance(graph, CudaGraph)
for value in (7, 100, 254):
    slot[:] = value
    first.record(stream)
    graph.launch(stream)
    last.record(stream)
    last.wait()
    stream.wait()
    assert (result.array == value + 1).all()
assert last.since_ms(first) == 0.25

device.make_current()
read_only = device.register(np.zeros(64, np.uint8), read_only=True)
refused("CUDA_ERROR_OUT_OF_MEMORY", "the GPU's memory is full", device.memory, 1 << 25)
for_this_one = "compile them for this one"
refused("CUDA_ERROR_NO_BINARY_FOR_GPU", for_this_one, device.module, b"for another GPU")
subtract = "subtract", (16, 1, 1), 64, arguments
refused("CUDA_ERROR_NOT_FOUND", "named symbol not found", kernels.prepare, *subtract)
read_only.close()
memory.close()
device.close()


def open_elsewhere():
    """Use the device in a thread that ends before it, as a node does to load what it has built."""
    global device, source
    device = open_device()
    source = device.pinned(8)
    source.array[:] = 3


thread = threading.Thread(target=open_elsewhere)
thread.start()
thread.join()
device.make_current()
stream, result, memory = device.stream(), device.pinned(8), device.memory(8)
stream.copy(memory.address, source.address, 8)
stream.copy(result.address, memory.address, 8)
stream.wait()
assert (result.array == 3).all()
device.close()
