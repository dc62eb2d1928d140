"""Calls every function of the driver, over the stub of libcuda, and prints the results.

test_cuda_stub.py runs it with that library in LD_LIBRARY_PATH.
"""

import ctypes
import json
import threading
from dataclasses import asdict

import numpy as np

from perception_nodes.gpu.cuda import CudaError, CudaGraph, capture, open_device

COUNT = 1000


class Arguments(ctypes.Structure):
    _fields_ = [
        ("source", ctypes.c_uint64),
        ("to", ctypes.c_uint64),
        ("count", ctypes.c_int32),
        ("added", ctypes.c_uint8),
    ]


def refusal(function, *arguments):
    try:
        function(*arguments)
    except CudaError as error:
        return [error.name, str(error)]
    return None


device = open_device()
stream = device.stream()
first, last = device.event(), device.event()
slot = np.zeros(COUNT, np.uint8)
frame = device.register(slot)
source, result = device.pinned(COUNT), device.pinned(COUNT)
memory, sum_ = device.memory(COUNT), device.memory(COUNT)
source.array[:] = np.arange(COUNT) % 256
kernel = device.module(b"cubin").kernel("add")
arguments = Arguments(memory.address, sum_.address, COUNT, 5)
launch = kernel.prepare((16, 1, 1), (64, 1, 1), arguments, shared_bytes=16)

stream.copy(memory.address, source.address, COUNT)
launch.enqueue(stream)
stream.copy(result.address, sum_.address, COUNT)
stream.wait()
copied = bool((result.array == source.array + 5).all())

stream.fill(memory, 9)
stream.copy(result.address, memory.address, COUNT)
stream.wait()
filled = bool((result.array == 9).all())

arguments.source, arguments.added = frame.address, 1
graph = capture(
    stream, [launch.enqueue, lambda stream: stream.copy(result.address, sum_.address, COUNT)]
)
assert isinstance(graph, CudaGraph)
replayed = []
for value in (7, 100, 254):
    slot[:] = value
    first.record(stream)
    graph.launch(stream)
    last.record(stream)
    last.wait()
    stream.wait()
    replayed.append(bool((result.array == value + 1).all()))

device.make_current()
read_only = device.register(np.zeros(64, np.uint8), read_only=True)
report = {
    "facts": asdict(device.facts),
    "copied": copied,
    "filled": filled,
    "replayed": replayed,
    "took_ms": last.since_ms(first),
    "free_bytes": device.free_bytes(),
    "out_of_memory": refusal(device.memory, 1 << 25),
    "no_kernel": refusal(device.module, b"for another GPU"),
    "no_function": refusal(device.module(b"cubin").kernel, "subtract"),
}
read_only.close()
memory.close()
report["freed_bytes"] = device.free_bytes() - report["free_bytes"]
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
report["from_elsewhere"] = result.array.tolist()
device.close()
print(json.dumps(report))
