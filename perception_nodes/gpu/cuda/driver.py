"""The functions of the CUDA driver that are used here, in one table, and what calls them.

With PyCUDA installed they are called in the libcuda that it has loaded: PyCUDA 2026.1 itself has no
graphs and no priorities, and its `register_host_memory` sets an array's base twice, which NumPy
forbids. Otherwise cuda-bindings calls them. Both share the device's primary context with other code
of the process.
"""

import ctypes
import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from perception_nodes.gpu.cuda.errors import CudaError, driver_lacks, error_of, no_driver

HANDLE, ADDRESS, SIZE = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t
INT, UNSIGNED, TEXT = ctypes.c_int, ctypes.c_uint, ctypes.c_char_p
OUT = ctypes.POINTER
"""A parameter through which a function answers; it is left out of a call, and returned."""
NAME_BYTES = 256

FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (UNSIGNED,),
    "cuGetErrorName": (INT, OUT(TEXT)),
    "cuGetErrorString": (INT, OUT(TEXT)),
    "cuDriverGetVersion": (OUT(INT),),
    "cuDeviceGet": (OUT(INT), INT),
    "cuDeviceGetName": (OUT(ctypes.c_char * NAME_BYTES), INT, INT),
    "cuDeviceGetAttribute": (OUT(INT), INT, INT),
    "cuDeviceTotalMem_v2": (OUT(SIZE), INT),
    "cuDevicePrimaryCtxSetFlags_v2": (INT, UNSIGNED),
    "cuDevicePrimaryCtxRetain": (OUT(HANDLE), INT),
    "cuDevicePrimaryCtxRelease_v2": (INT,),
    "cuCtxSetCurrent": (HANDLE,),
    "cuCtxGetStreamPriorityRange": (OUT(INT), OUT(INT)),
    "cuMemAlloc_v2": (OUT(ADDRESS), SIZE),
    "cuMemFree_v2": (ADDRESS,),
    "cuMemHostAlloc": (OUT(HANDLE), SIZE, UNSIGNED),
    "cuMemFreeHost": (HANDLE,),
    "cuMemHostRegister_v2": (HANDLE, SIZE, UNSIGNED),
    "cuMemHostUnregister": (HANDLE,),
    "cuMemHostGetDevicePointer_v2": (OUT(ADDRESS), HANDLE, UNSIGNED),
    "cuMemcpyAsync": (ADDRESS, ADDRESS, SIZE, HANDLE),
    "cuMemsetD8Async": (ADDRESS, ctypes.c_ubyte, SIZE, HANDLE),
    "cuStreamCreateWithPriority": (OUT(HANDLE), UNSIGNED, INT),
    "cuStreamDestroy_v2": (HANDLE,),
    "cuStreamSynchronize": (HANDLE,),
    "cuStreamBeginCapture_v2": (HANDLE, INT),
    "cuStreamEndCapture": (HANDLE, OUT(HANDLE)),
    "cuGraphInstantiateWithFlags": (OUT(HANDLE), HANDLE, ctypes.c_ulonglong),
    "cuGraphDestroy": (HANDLE,),
    "cuGraphUpload": (HANDLE, HANDLE),
    "cuGraphLaunch": (HANDLE, HANDLE),
    "cuGraphExecDestroy": (HANDLE,),
    "cuEventCreate": (OUT(HANDLE), UNSIGNED),
    "cuEventDestroy_v2": (HANDLE,),
    "cuEventRecord": (HANDLE, HANDLE),
    "cuEventSynchronize": (HANDLE,),
    "cuEventElapsedTime": (OUT(ctypes.c_float), HANDLE, HANDLE),
    "cuModuleLoadData": (OUT(HANDLE), TEXT),
    "cuModuleUnload": (HANDLE,),
    "cuModuleGetFunction": (OUT(HANDLE), HANDLE, TEXT),
    "cuLaunchKernel": (HANDLE, *[UNSIGNED] * 7, HANDLE, HANDLE, HANDLE),
}
"""Parameters of each function in libcuda, where a name can end with its signature's version."""


class Attribute(IntEnum):
    """CUdevice_attribute."""

    INTEGRATED = 18
    COMPUTE_CAPABILITY_MAJOR = 75
    COMPUTE_CAPABILITY_MINOR = 76


CONTEXT_BLOCKING_SYNC = 0x04
"""CU_CTX_SCHED_BLOCKING_SYNC."""
EVENT_BLOCKING_SYNC = 0x01
"""CU_EVENT_BLOCKING_SYNC."""
MAPPED = 0x02
"""CU_MEMHOSTALLOC_DEVICEMAP, and CU_MEMHOSTREGISTER_DEVICEMAP."""
READ_ONLY = 0x08
"""CU_MEMHOSTREGISTER_READ_ONLY."""
NON_BLOCKING = 0x01
"""CU_STREAM_NON_BLOCKING."""
CAPTURE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL."""
LAUNCH_BUFFER, LAUNCH_BUFFER_SIZE, LAUNCH_END = 1, 2, 0
"""CU_LAUNCH_PARAM_BUFFER_POINTER, _BUFFER_SIZE and _END."""


class Driver:
    """The functions of `FUNCTIONS` as methods, by their names in the CUDA documentation.

    Handles and addresses are integers. A call returns what the function answers: nothing, a value
    or a tuple. It raises `CudaError`, and releases Python's lock while it runs.

    Attributes:
        through: the Python module in use, with its version.
    """

    def __init__(self, through: str, find: Callable[[str, Sequence[Any]], Callable[..., Any]]):
        """Look up all functions.

        Args:
            through: the Python module in use, with its version.
            find: gives a function of `FUNCTIONS`, which returns an error code and its answers.

        Raises:
            CudaError: the driver lacks a function.
        """
        self.through = through
        for symbol, parameters in FUNCTIONS.items():
            name = plain_name(symbol)
            setattr(self, name, self._checked(name, find(symbol, parameters)))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Tell a type checker of the functions."""
        raise AttributeError(name)

    def _checked(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            code, *answers = function(*arguments)
            if code:
                name_of, text_of = self.cuGetErrorName(code), self.cuGetErrorString(code)
                raise error_of(name, (name_of or b"").decode(), (text_of or b"").decode())
            return answers[0] if len(answers) == 1 else tuple(answers)

        return call


def plain_name(symbol: str) -> str:
    """Name of a function in the CUDA documentation, and in cuda-bindings."""
    return re.sub(r"(_v\d+|WithFlags)$", "", symbol)


def load_driver() -> Driver:
    """Initialise the CUDA driver.

    Raises:
        CudaError: neither PyCUDA nor cuda-bindings is installed, the driver is missing or too old,
            or no GPU is found.
    """
    if _installed("pycuda.driver"):
        driver = _through_pycuda()
    elif _installed("cuda.bindings.driver"):
        driver = _through_bindings()
    else:
        raise CudaError(
            "neither PyCUDA nor cuda-bindings is installed; install one with: pip install pycuda "
            "(it is compiled, with the CUDA toolkit's headers), or: pip install cuda-bindings"
        )
    driver.cuInit(0)
    return driver


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        # A parent package is missing or cannot be imported.
        return False


def _through_pycuda() -> Driver:
    try:
        importlib.import_module("pycuda.driver")
        library = ctypes.CDLL("libcuda.so.1")
    except (ImportError, OSError) as error:
        if "libcuda" in str(error):
            raise no_driver() from error
        raise driver_lacks("PyCUDA", error) from error

    def find(symbol: str, parameters: Sequence[Any]) -> Callable[..., Any]:
        try:
            function = library[symbol]
        except AttributeError as error:
            raise driver_lacks("CUDA graphs", error) from error
        function.argtypes = parameters
        answered = [issubclass(parameter, ctypes._Pointer) for parameter in parameters]

        def call(*arguments: Any) -> tuple[Any, ...]:
            given = iter(arguments)
            passed = [
                parameter._type_() if answers else next(given)
                for parameter, answers in zip(parameters, answered, strict=True)
            ]
            code = function(*passed)
            return code, *(one.value for one, out in zip(passed, answered, strict=True) if out)

        return call

    return Driver(f"PyCUDA {importlib.metadata.version('pycuda')}", find)


def _through_bindings() -> Driver:
    from cuda.bindings import driver as cu

    title = f"cuda-bindings {importlib.metadata.version('cuda-bindings')}"
    try:
        cu.cuDriverGetVersion()
    except (RuntimeError, ImportError, OSError) as error:
        raise no_driver() from error

    def find(symbol: str, parameters: Sequence[Any]) -> Callable[..., Any]:
        if (function := getattr(cu, plain_name(symbol), None)) is None:
            raise CudaError(f"{title} has no {plain_name(symbol)}; install version 12 or newer")

        def call(*arguments: Any) -> tuple[Any, ...]:
            try:
                code, *answers = function(*arguments)
            except RuntimeError as error:
                # A function is looked up in libcuda at its first call, and an old one may lack it.
                raise driver_lacks("cuda-bindings", error) from error
            # Handles are objects of cuda-bindings, and what answers with an error is None.
            plain = (bytes, float, type(None))
            return code, *(one if isinstance(one, plain) else int(one) for one in answers)

        return call

    return Driver(title, find)
