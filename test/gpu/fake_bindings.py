"""`cuda.bindings.driver` over the GPU in Python."""

import ctypes

import numpy as np
from fake_gpu import MAPPED_OFFSET, TEXTS, Refused, Verdict, bytes_at, module_of


class Handle:
    """An object of cuda-bindings: its functions return these, and take integers."""

    def __init__(self, value):
        self._value = value

    def __int__(self):
        return self._value


def bindings_of(gpu):
    """`cuda.bindings.driver`: functions that return an error code and their answers."""
    pinned = {}
    objects = {}  # events, graphs and kernels by their handles

    def api(function):
        def call(*arguments):
            assert not any(isinstance(one, Handle) for one in arguments)
            try:
                gpu.call(function.__name__)
                answer = function(*arguments)
            except Refused as refused:
                return (refused.verdict, None)
            if answer is None:
                return (Verdict.CUDA_SUCCESS,)
            return (Verdict.CUDA_SUCCESS, *(answer if isinstance(answer, tuple) else (answer,)))

        functions[function.__name__] = call
        return call

    functions = {}

    def handle_of(thing):
        objects[0x9000 + len(objects)] = thing
        return Handle(0x9000 + len(objects) - 1)

    @api
    def cuInit(flags):
        if not gpu.devices:
            raise Refused("cuInit", Verdict.CUDA_ERROR_NO_DEVICE)

    @api
    def cuDriverGetVersion():
        return gpu.driver

    @api
    def cuDeviceGetCount():
        return gpu.devices

    @api
    def cuDeviceGet(index):
        if index >= gpu.devices:
            raise Refused("cuDeviceGet", Verdict.CUDA_ERROR_INVALID_DEVICE)
        return Handle(index)

    @api
    def cuDeviceGetName(size, device):
        return b"Fake GPU".ljust(size, b"\0")

    @api
    def cuDeviceGetAttribute(attribute, device):
        return {75: gpu.sm[0], 76: gpu.sm[1], 18: gpu.integrated}[attribute.value]

    @api
    def cuDeviceTotalMem(device):
        return gpu.memory_bytes

    @api
    def cuDevicePrimaryCtxSetFlags(device, flags):
        gpu.waits_blocking = bool(flags & 4)

    @api
    def cuDevicePrimaryCtxRetain(device):
        gpu.open["context"] += 1
        return Handle(7)

    @api
    def cuDevicePrimaryCtxRelease(device):
        gpu.open["context"] -= 1

    @api
    def cuCtxSetCurrent(context):
        gpu.current_context = context

    @api
    def cuCtxGetStreamPriorityRange():
        return 0, -5

    @api
    def cuMemGetInfo():
        return gpu.free_bytes(), gpu.memory_bytes

    @api
    def cuStreamCreateWithPriority(flags, priority):
        assert flags == 1
        stream = gpu.stream()
        stream.priority = priority
        return Handle(stream.address)

    @api
    def cuStreamDestroy(stream):
        gpu.open["stream"] -= 1

    @api
    def cuStreamSynchronize(stream):
        gpu.wait(gpu.stream_at(stream))

    @api
    def cuEventCreate(flags):
        assert flags == 1
        gpu.open["event"] += 1
        return handle_of([])

    @api
    def cuEventDestroy(event):
        gpu.open["event"] -= 1

    @api
    def cuEventRecord(event, stream):
        stream = gpu.stream_at(stream)
        objects[event][:] = [stream]
        stream.put(lambda: objects[event].append(gpu.tick()))

    @api
    def cuEventSynchronize(event):
        gpu.wait(objects[event][0])

    @api
    def cuEventElapsedTime(first, last):
        return objects[last][-1] - objects[first][-1]

    @api
    def cuMemAlloc(nbytes):
        return Handle(gpu.allocate(nbytes))

    @api
    def cuMemFree(memory):
        gpu.free(memory)

    @api
    def cuMemHostAlloc(nbytes, flags):
        assert flags == 2
        array = np.full(nbytes, 0xCD, np.uint8)
        pinned[array.ctypes.data] = array
        gpu.map(array)
        return array.ctypes.data

    @api
    def cuMemFreeHost(memory):
        gpu.unmap(pinned.pop(memory))

    @api
    def cuMemHostRegister(memory, nbytes, flags):
        assert flags & 2
        gpu.calls["read only"] += bool(flags & 8)
        gpu.map(bytes_at(memory, nbytes))

    @api
    def cuMemHostUnregister(memory):
        gpu.unmap(bytes_at(memory, 1))

    @api
    def cuMemHostGetDevicePointer(memory, flags):
        return Handle(memory + MAPPED_OFFSET)

    @api
    def cuMemcpyAsync(to, source, nbytes, stream):
        gpu.copy(
            gpu.stream_at(stream), lambda: gpu.view(source, nbytes), lambda: gpu.view(to, nbytes)
        )

    @api
    def cuMemsetD8Async(to, value, nbytes, stream):
        gpu.copy(gpu.stream_at(stream), lambda: np.uint8(value), lambda: gpu.view(to, nbytes))

    @api
    def cuModuleLoadData(image):
        assert image.endswith(b"\0")
        gpu.open["module"] += 1
        return Handle(0)

    @api
    def cuModuleUnload(module):
        gpu.open["module"] -= 1

    @api
    def cuModuleGetFunction(module, name):
        if name.decode() not in gpu.kernels:
            raise Refused("cuModuleGetFunction", Verdict.CUDA_ERROR_NOT_FOUND)
        return handle_of(name.decode())

    @api
    def cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        assert parameters == 0
        fields = (ctypes.c_void_p * 5).from_address(extra)
        assert (fields[0], fields[2], fields[4]) == (1, 2, None)
        size = ctypes.c_size_t.from_address(fields[3]).value
        arguments = ctypes.string_at(fields[1], size)
        grid, block = (gx, gy, gz), (bx, by, bz)
        gpu.launch(gpu.stream_at(stream), objects[function], grid, block, arguments)

    @api
    def cuStreamBeginCapture(stream, mode):
        assert mode.value == 1
        gpu.begin_capture(gpu.stream_at(stream))

    @api
    def cuStreamEndCapture(stream):
        captured = gpu.end_capture(gpu.stream_at(stream))
        if "capture" in gpu.failures:
            raise Refused("cuStreamEndCapture", gpu.failures["capture"])
        return handle_of(captured)

    @api
    def cuGraphInstantiate(graph, flags):
        gpu.open["graph"] += 1
        return handle_of(objects[graph])

    @api
    def cuGraphDestroy(graph):
        gpu.open["template"] -= 1

    @api
    def cuGraphUpload(graph, stream):
        gpu.uploaded.append(objects[graph])

    @api
    def cuGraphLaunch(graph, stream):
        gpu.replay(gpu.stream_at(stream), objects[graph])

    @api
    def cuGraphExecDestroy(graph):
        gpu.open["graph"] -= 1

    return module_of(
        "cuda.bindings.driver",
        cuGetErrorName=lambda verdict: (Verdict.CUDA_SUCCESS, verdict.name.encode()),
        cuGetErrorString=lambda verdict: (Verdict.CUDA_SUCCESS, TEXTS[verdict].encode()),
        **functions,
    )
