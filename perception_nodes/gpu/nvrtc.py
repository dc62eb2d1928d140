"""Compiling the kernels on the machine where they run, by NVRTC, at the first start.

NVRTC is NVIDIA's compiler as a library. It needs neither the toolkit nor a C++ compiler nor a GPU,
and compiles both kernel files in a second. A cubin is kept under a hash of everything that it was
made from, together with a hash of its content, which is checked when it is read.
"""

import ctypes
import hashlib
import importlib.util
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from perception_nodes.gpu.cuda.errors import CudaError
from perception_nodes.system.environment import cache_folder, cache_unusable
from perception_nodes.system.files import write_whole

KERNELS = Path(__file__).parent / "kernels"
HEADERS = sorted(KERNELS.glob("*.cuh"))
OPTIONS = ("--std=c++17", "--ptxas-options=-v")
LIBRARIES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


@dataclass(frozen=True)
class Usage:
    """Resources that a compiled kernel uses.

    Attributes:
        registers: registers per thread.
        stack_bytes: local memory per thread.
        spilled_bytes: bytes per thread stored and loaded because of too few registers.
        shared_bytes: shared memory per block.
    """

    registers: int
    stack_bytes: int
    spilled_bytes: int
    shared_bytes: int


class Nvrtc:
    """NVIDIA's run-time compiler.

    Attributes:
        version: its CUDA version, 13000 for 13.0.
    """

    def __init__(self) -> None:
        """Load the library.

        Raises:
            CudaError: the library is not installed.
        """
        self._library = _load()
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = 1000 * major.value + 10 * minor.value

    def architectures(self) -> list[int]:
        """Compute capabilities that the compiler supports, 87 for 8.7."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", known)
        return list(known)

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
        if sm not in self.architectures():
            raise CudaError(
                f"NVRTC {self.version // 1000}.{self.version % 1000 // 10} does not compile for "
                f"compute capability {sm // 10}.{sm % 10}; install one that does: "
                "pip install nvidia-cuda-nvrtc (the newest of the driver's CUDA)"
            )
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
                raise CudaError(f"NVRTC does not compile {name}.cu for sm_{sm}:\n{log}")
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
        failed = getattr(self._library, name)(*arguments)
        if failed:
            raise CudaError(f"{name} failed with error {failed}")


@lru_cache(maxsize=1)
def nvrtc() -> Nvrtc:
    """The compiler, loaded once.

    Raises:
        CudaError: the library is not installed.
    """
    return Nvrtc()


def cubin(name: str, sm: int) -> bytes:
    """A kernel file compiled for a GPU, from the cache if possible.

    Args:
        name: name of the file in `kernels/`, without `.cu`.
        sm: compute capability, 87 for 8.7.

    Raises:
        CudaError: NVRTC is not installed, or fails, or the cache cannot be written.
    """
    compiler = nvrtc()
    made_of = [path.read_bytes() for path in (KERNELS / f"{name}.cu", *HEADERS)]
    made_of += [f"{OPTIONS} {compiler.version} {sm}".encode()]
    key = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]
    path = cache_folder() / "kernels" / f"{name}-sm{sm}-{key}.cubin"
    try:
        kept = path.read_bytes()
        if hashlib.sha256(kept[32:]).digest() == kept[:32]:
            return kept[32:]
    except OSError:
        pass
    image, _ = compiler.compile(name, sm)
    try:
        write_whole(path, hashlib.sha256(image).digest() + image)
    except OSError as error:
        raise CudaError(cache_unusable(path.parent, error)) from error
    return image


def usage_of(report: str) -> dict[str, Usage]:
    """Resources of each kernel by name, read from the report of `ptxas -v`."""
    found = {}
    for part in report.split("Compiling entry function '")[1:]:
        numbers = {
            key: int(match.group(1)) if (match := re.search(rf"(\d+) {text}", part)) else 0
            for key, text in {
                "registers": "registers",
                "stack": "bytes stack frame",
                "stores": "bytes spill stores",
                "loads": "bytes spill loads",
                "shared": "bytes smem",
            }.items()
        }
        found[part.split("'")[0]] = Usage(
            numbers["registers"],
            numbers["stack"],
            numbers["stores"] + numbers["loads"],
            numbers["shared"],
        )
    return found


def _load() -> ctypes.CDLL:
    packages = importlib.util.find_spec("nvidia")
    folders = list(packages.submodule_search_locations or []) if packages else []
    wheels = [
        str(path)
        for folder in folders
        for name in LIBRARIES
        for path in Path(folder).glob(f"*/lib/{name}")
    ]
    for candidate in (*wheels, *LIBRARIES):
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise CudaError(
        "NVRTC, which compiles the GPU's kernels, is not installed; install it with: pip install "
        "nvidia-cuda-nvrtc (CUDA 13), nvidia-cuda-nvrtc-cu12 (CUDA 12), or the toolkit's cuda-nvrtc"
    )
