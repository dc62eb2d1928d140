"""Compiling the kernels on the machine where they run, by NVRTC, at the first start.

NVRTC is NVIDIA's compiler as a library. It needs neither the toolkit nor a C++ compiler nor a GPU,
and compiles all kernel files in a second. A cubin is kept under a hash of everything that it was
made from, together with a hash of its content, which is checked when it is read.
"""

import ctypes
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from perception_nodes.gpu.cuda import CudaError, Device, Module
from perception_nodes.gpu.cuda.errors import version_text
from perception_nodes.system.environment import cache_folder, writing_cache
from perception_nodes.system.files import read_sealed, write_sealed

KERNELS = Path(__file__).parent / "kernels"
HEADERS = sorted(KERNELS.glob("*.cuh"))
OPTIONS = ("--std=c++17", "--ptxas-options=-v")
LIBRARIES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
INSTALL = (
    "install the newest of the driver's CUDA: pip install nvidia-cuda-nvrtc (CUDA 13), "
    "nvidia-cuda-nvrtc-cu12 (CUDA 12), or the toolkit's cuda-nvrtc"
)


class Nvrtc:
    """NVIDIA's run-time compiler.

    Attributes:
        version: its CUDA version, 13000 for 13.0.
    """

    def __init__(self, driver_cuda: int) -> None:
        """Load the newest library whose major version is not above the driver's.

        A driver refuses kernels of a newer major version, and takes older ones and all minor
        versions (NVIDIA, CUDA Compatibility).

        Args:
            driver_cuda: CUDA version that the driver supports, 13000 for 13.0.

        Raises:
            CudaError: no such library is installed.
        """
        self._library, self.version = _load(driver_cuda)

    def compile(self, name: str, sm: int) -> tuple[bytes, str]:
        """Compile a file of `kernels/`.

        Args:
            name: name of the file, without `.cu`.
            sm: compute capability, 87 for 8.7.

        Returns:
            The cubin, and the compiler's report.

        Raises:
            CudaError: the GPU is not supported, or the source does not compile.
        """
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            (KERNELS / f"{name}.cu").read_bytes(),
            f"{name}.cu".encode(),
            len(HEADERS),
            (ctypes.c_char_p * len(HEADERS))(*(path.read_bytes() for path in HEADERS)),
            (ctypes.c_char_p * len(HEADERS))(*(path.name.encode() for path in HEADERS)),
        )
        try:
            options = [option.encode() for option in (f"--gpu-architecture=sm_{sm}", *OPTIONS)]
            failed = self._library.nvrtcCompileProgram(
                program, len(options), (ctypes.c_char_p * len(options))(*options)
            )
            log = self._text(program, "nvrtcGetProgramLog").decode().rstrip("\0\n")
            if failed:
                version = version_text(self.version)
                why = f"does not compile {name}.cu for sm_{sm} ({log})"
                raise CudaError(f"NVRTC {version} {why}; {INSTALL}")
            return self._text(program, "nvrtcGetCUBIN"), log
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, call: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"{call}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(call, program, text)
        return text.raw

    def _call(self, name: str, *arguments: object) -> None:
        if failed := getattr(self._library, name)(*arguments):
            raise CudaError(f"{name} failed with error {failed}")


nvrtc = cache(Nvrtc)
"""The compiler for a version of the driver, loaded once."""


def cubin(name: str, sm: int, driver_cuda: int) -> bytes:
    """A kernel file compiled for a GPU, from the cache if possible.

    Args:
        name: name of the file in `kernels/`, without `.cu`.
        sm: compute capability, 87 for 8.7.
        driver_cuda: CUDA version that the driver supports, 13000 for 13.0.

    Raises:
        CudaError: NVRTC is not installed, or fails, or the cache cannot be written.
    """
    compiler = nvrtc(driver_cuda)
    made_of = [path.read_bytes() for path in (KERNELS / f"{name}.cu", *HEADERS)]
    made_of += [f"{OPTIONS} {compiler.version} {sm}".encode()]
    key = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]
    path = cache_folder() / "kernels" / f"{name}-sm{sm}-{key}.cubin"
    if (kept := read_sealed(path)) is not None:
        return kept
    image, _ = compiler.compile(name, sm)
    with writing_cache(path.parent, CudaError):
        write_sealed(path, image)
    return image


def load_kernels(device: Device, name: str) -> Module:
    """The kernels of a file, loaded on a device; see `cubin`.

    Raises:
        CudaError: they cannot be compiled or loaded.
    """
    return device.module(cubin(name, device.facts.sm, device.facts.driver_cuda))


def _load(driver_cuda: int) -> tuple[ctypes.CDLL, int]:
    """The newest NVRTC whose kernels the driver takes, and its version."""
    newer = 0
    for name in LIBRARIES:
        for candidate in (*_wheels(name), name):
            try:
                library = ctypes.CDLL(candidate)
            except OSError:
                continue
            major, minor = ctypes.c_int(), ctypes.c_int()
            library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
            version = 1000 * major.value + 10 * minor.value
            if version // 1000 <= driver_cuda // 1000:
                return library, version
            newer = version
    if newer:
        raise CudaError(
            f"NVRTC {version_text(newer)} is installed, the driver is for CUDA "
            f"{version_text(driver_cuda)} and takes no kernels of a newer major version; {INSTALL}"
        )
    raise CudaError(f"NVRTC, which compiles the GPU's kernels, is not installed; {INSTALL}")


def _wheels(name: str) -> list[str]:
    """Paths of a library in NVIDIA's packages for Python."""
    packages = importlib.util.find_spec("nvidia")
    folders = list(packages.submodule_search_locations or []) if packages else []
    return [str(path) for folder in folders for path in Path(folder).glob(f"*/lib/{name}")]
