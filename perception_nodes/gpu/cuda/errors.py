"""What can go wrong between us and a GPU, each with its remedy."""

from perception_nodes.core.inference import BackendError

DRIVER_OF_CUDA = {11: 450, 12: 525, 13: 580}
"""The oldest driver branch on a desktop that runs programs of a CUDA version."""

OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
NO_KERNEL_IMAGE = "CUDA_ERROR_NO_BINARY_FOR_GPU"
NO_DRIVER = "no driver"
DRIVER_TOO_OLD = "driver too old"

ERRORS = {
    "CUDA_ERROR_NO_DEVICE": (
        "no CUDA-capable device is detected",
        "no GPU answers: see whether nvidia-smi lists one and CUDA_VISIBLE_DEVICES hides none, in "
        "a container start it with --gpus all; without a GPU use backend:=openvino",
    ),
    "CUDA_ERROR_INVALID_DEVICE": (
        "invalid device ordinal",
        "there are fewer GPUs than that: see nvidia-smi and CUDA_VISIBLE_DEVICES",
    ),
    OUT_OF_MEMORY: (
        "out of memory",
        "the GPU's memory is full: end what else uses it (nvidia-smi), or take a smaller model",
    ),
    NO_KERNEL_IMAGE: (
        "no kernel image is available for execution on the device",
        "the kernels were compiled for other GPUs: compile them for this one",
    ),
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": (
        "the provided PTX was compiled with an unsupported toolchain.",
        "the kernels were compiled by a newer CUDA than the driver knows: update the driver, or "
        "compile them with the CUDA it reports",
    ),
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": (
        "system has unsupported display driver / cuda driver combination",
        "libcuda and the kernel's driver are of two versions: reboot after an update, and leave "
        "one of them only",
    ),
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": (
        "forward compatibility was attempted on non supported HW",
        "remove the cuda-compat package, which this GPU cannot use, or update the driver",
    ),
    "CUDA_ERROR_STUB_LIBRARY": (
        "CUDA driver is a stub library",
        "the stub of the toolkit was loaded: take its folder (stubs/) out of LD_LIBRARY_PATH",
    ),
    "CUDA_ERROR_DEVICE_UNAVAILABLE": (
        "CUDA-capable device(s) is/are busy or unavailable",
        "another process holds the GPU alone: end it, or set its compute mode back with "
        "nvidia-smi -c DEFAULT",
    ),
}
"""By the driver's name of an error: its text, which is all that PyCUDA hands on, and the remedy."""


class CudaError(BackendError):
    """The driver refused something.

    Attributes:
        name: the driver's name of the error, such as CUDA_ERROR_OUT_OF_MEMORY; `NO_DRIVER`,
            `DRIVER_TOO_OLD`, or empty.
    """

    def __init__(self, text: str, name: str = "") -> None:
        """Take the whole text."""
        super().__init__(text)
        self.name = name


def error_of_name(call: str, name: str, text: str) -> CudaError:
    """The error of a call that the driver gave a name and a text."""
    said, remedy = ERRORS.get(name, (text, ""))
    said = said.rstrip(".")
    return CudaError(f"{call}: {said}{'; ' + remedy if remedy else ''} ({name})", name)


def error_of_text(text: str) -> CudaError:
    """The error of PyCUDA's text, `cuMemAlloc failed: out of memory`."""
    call, _, said = text.partition(" failed: ")
    for name, (known, _) in ERRORS.items():
        if said.startswith(known):
            return error_of_name(call, name, known)
    return CudaError(text)


def no_driver() -> CudaError:
    """There is no libcuda."""
    return CudaError(
        "there is no CUDA driver (libcuda.so.1 cannot be loaded); install NVIDIA's driver, in a "
        "container start it with --gpus all (on a Jetson with --runtime nvidia); without a GPU "
        "use backend:=openvino",
        NO_DRIVER,
    )


def driver_lacks(module: str, cause: BaseException) -> CudaError:
    """A function is missing in libcuda."""
    return CudaError(
        f"the CUDA driver is too old for {module} ({_line(cause)}); update the driver, or install "
        "a version made for the CUDA that nvidia-smi reports",
        DRIVER_TOO_OLD,
    )


def driver_too_old(found: int, needed: int, who: str) -> CudaError:
    """The driver knows an older CUDA than somebody was made with (versions as 1000 major + 10)."""
    branch = DRIVER_OF_CUDA.get(needed // 1000)
    remedy = f"install driver {branch} or newer" if branch else "update the driver"
    return CudaError(
        f"the CUDA driver is too old: it runs CUDA {version_text(found)}, {who} is made for "
        f"{version_text(needed)}; {remedy} (on a Jetson: the JetPack that has it), or take a "
        f"{who} made for CUDA {found // 1000}",
        DRIVER_TOO_OLD,
    )


def version_text(version: int) -> str:
    """13000 as 13.0."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _line(cause: BaseException) -> str:
    return " ".join(str(cause).split())
