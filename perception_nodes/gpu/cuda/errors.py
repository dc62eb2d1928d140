"""Errors of the CUDA driver, each with its remedy."""

from perception_nodes.core.inference import BackendError

DRIVER_OF_CUDA = {11: 450, 12: 525, 13: 580}
"""For each major CUDA version the oldest driver branch, on a desktop, that supports it."""

OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
STREAM_CAPTURE = "CUDA_ERROR_STREAM_CAPTURE_"
"""Beginning of the names of errors that say that work cannot be captured."""
NO_DRIVER = "no driver"
DRIVER_TOO_OLD = "driver too old"

REMEDIES = {
    "CUDA_ERROR_NO_DEVICE": (
        "check that nvidia-smi lists a GPU and that CUDA_VISIBLE_DEVICES does not hide it; start a "
        "container with --gpus all; without a GPU use backend:=openvino"
    ),
    OUT_OF_MEMORY: (
        "the GPU's memory is full: end other processes on it (nvidia-smi), or use a smaller model"
    ),
    "CUDA_ERROR_INVALID_IMAGE": (
        "the kernels were compiled by a CUDA of a newer major version than the driver's: install "
        "the NVRTC of the driver's (nvidia-cuda-nvrtc-cu12 for CUDA 12), or update the driver"
    ),
    "CUDA_ERROR_NO_BINARY_FOR_GPU": (
        "the kernels were compiled for other GPUs: compile them for this one"
    ),
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": (
        "libcuda and the kernel's driver have different versions: reboot after an update, and "
        "keep only one version installed"
    ),
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": (
        "remove the cuda-compat package, which this GPU cannot use, or update the driver"
    ),
    "CUDA_ERROR_STUB_LIBRARY": (
        "the stub of the toolkit was loaded: remove its folder (stubs/) from LD_LIBRARY_PATH"
    ),
    "CUDA_ERROR_DEVICE_UNAVAILABLE": (
        "another process uses the GPU exclusively: end it, or reset the GPU's compute mode with "
        "nvidia-smi -c DEFAULT"
    ),
}
"""By the driver's name of an error."""


class CudaError(BackendError):
    """The CUDA driver, or a library around it, failed; the text says what to do.

    Attributes:
        name: the driver's name of the error, such as CUDA_ERROR_OUT_OF_MEMORY; `NO_DRIVER`,
            `DRIVER_TOO_OLD`, or empty.
    """

    def __init__(self, text: str, name: str = "") -> None:
        super().__init__(text)
        self.name = name


def error_of(call: str, name: str, text: str) -> CudaError:
    """The error of a call, from the driver's name and text of it."""
    remedy = f"; {REMEDIES[name]}" if name in REMEDIES else ""
    return CudaError(f"{call}: {text.rstrip('.')}{remedy} ({name})", name)


def no_driver() -> CudaError:
    """The error if there is no libcuda."""
    return CudaError(
        "there is no CUDA driver (libcuda.so.1 cannot be loaded); install NVIDIA's driver; start a "
        "container with --gpus all (on a Jetson with --runtime nvidia); without a GPU use "
        "backend:=openvino",
        NO_DRIVER,
    )


def driver_lacks(module: str, cause: BaseException) -> CudaError:
    """The error if libcuda lacks a function that a module needs."""
    return CudaError(
        f"the CUDA driver is too old for {module} ({' '.join(str(cause).split())}); update the "
        "driver, or install a version made for the CUDA that nvidia-smi reports",
        DRIVER_TOO_OLD,
    )


def driver_too_old(found: int, needed: int, who: str) -> CudaError:
    """The error if a library is made for a newer CUDA than the driver supports (13000 for 13.0)."""
    branch = DRIVER_OF_CUDA.get(needed // 1000)
    remedy = f"install driver {branch} or newer" if branch else "update the driver"
    return CudaError(
        f"the CUDA driver is too old: it supports CUDA {version_text(found)}, {who} is made for "
        f"{version_text(needed)}; {remedy} (on a Jetson: the JetPack that has it), or install a "
        f"{who} made for CUDA {found // 1000}",
        DRIVER_TOO_OLD,
    )


def version_text(version: int) -> str:
    """A CUDA version for people: 13.0 for 13000."""
    return f"{version // 1000}.{version % 1000 // 10}"
