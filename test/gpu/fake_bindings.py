"""`cuda.bindings.driver` over the GPU in Python."""

import ctypes

import numpy as np
from fake_gpu import MAPPED_OFFSET, TEXTS, Refused, Stream, Verdict, bytes_at, module_of


class Handle:
    """An object of cuda-bindings."""

    def __init__(self, value):
        self.value = value

    def __int__(self):
        value = self.value
        return value.address if isinstance(value, Stream) else int(value)


def bindings_of(gpu):
    """`cuda.bindings.driver`: functions that return an error code and their answers."""
    pinned = {}

    def api(function):
        def call(*arguments):
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
        return Handle(index)

    @api
    def cuDeviceGetName(size, device):
        return b"Fake GPU".ljust(size, b"\0")

    @api
    def cuDeviceGetAttribute(attribute, device):
        return {"MAJOR": gpu.sm[0], "MINOR": gpu.sm[1], "INTEGRATED": gpu.integrated}[
            attribute.rsplit("_", 1)[1]
        ]

    @api
    def cuDeviceTotalMem(device):
        return gpu.memory_bytes

    @api
    def cuDevicePrimaryCtxRetain(device):
        gpu.open["context"] += 1
        return Handle(7)

    @api
    def cuDevicePrimaryCtxRelease(device):
        gpu.open["context"] -= 1

    @api
    def cuCtxSetCurrent(context):
        gpu.current += 1

    @api
    def cuMemGetInfo():
        return gpu.free_bytes(), gpu.memory_bytes

    @api
    def cuStreamCreate(flags):
        assert flags == 1
        return Handle(gpu.stream())

    @api
    def cuStreamDestroy(stream):
        gpu.open["stream"] -= 1

    @api
    def cuStreamSynchronize(stream):
        gpu.wait(stream.value)

    @api
    def cuEventCreate(flags):
        gpu.open["event"] += 1
        return Handle([])

    @api
    def cuEventDestroy(event):
        gpu.open["event"] -= 1

    @api
    def cuEventRecord(event, stream):
        event.stream = stream.value
        stream.value.put(lambda: event.value.append(gpu.tick()))

    @api
    def cuEventSynchronize(event):
        gpu.wait(event.stream)

    @api
    def cuEventElapsedTime(first, last):
        return last.value[-1] - first.value[-1]

    @api
    def cuMemAlloc(nbytes):
        return Handle(gpu.allocate(nbytes))

    @api
    def cuMemFree(memory):
        gpu.free(int(memory))

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
        return Handle(int(memory) + MAPPED_OFFSET)

    @api
    def cuMemcpyHtoDAsync(to, source, nbytes, stream):
        gpu.copy(stream.value, lambda: source[:nbytes], lambda: gpu.view(to, nbytes))

    @api
    def cuMemcpyDtoHAsync(to, source, nbytes, stream):
        gpu.copy(stream.value, lambda: gpu.view(source, nbytes), lambda: to[:nbytes])

    @api
    def cuMemsetD8Async(to, value, nbytes, stream):
        gpu.copy(stream.value, lambda: np.uint8(value), lambda: gpu.view(to, nbytes))

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
        return Handle(name.decode())

    @api
    def cuFuncGetAttribute(attribute, function):
        return {"REGS": 32, "BYTES": 48 if "SHARED" in attribute else 0}[
            attribute.rsplit("_", 1)[1]
        ]

    @api
    def cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        assert parameters == 0
        fields = (ctypes.c_void_p * 5).from_address(extra)
        assert (fields[0], fields[2], fields[4]) == (1, 2, None)
        size = ctypes.c_size_t.from_address(fields[3]).value
        arguments = ctypes.string_at(fields[1], size)
        gpu.launch(stream.value, function.value, (gx, gy, gz), (bx, by, bz), arguments)

    @api
    def cuStreamBeginCapture(stream, mode):
        assert mode == "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"
        gpu.begin_capture(stream.value)

    @api
    def cuStreamEndCapture(stream):
        return Handle(gpu.end_capture(stream.value))

    @api
    def cuGraphInstantiate(graph, flags):
        return Handle(graph.value)

    @api
    def cuGraphDestroy(graph):
        pass

    @api
    def cuGraphLaunch(graph, stream):
        gpu.replay(stream.value, graph.value)

    @api
    def cuGraphExecDestroy(graph):
        gpu.open["graph"] -= 1

    class Names:
        def __getattr__(self, name):
            return name

    return module_of(
        "cuda.bindings.driver",
        CUresult=Verdict,
        CUdevice_attribute=Names(),
        CUfunction_attribute=Names(),
        CUstreamCaptureMode=Names(),
        cuGetErrorString=lambda verdict: (Verdict.CUDA_SUCCESS, TEXTS[verdict].encode()),
        **functions,
    )
