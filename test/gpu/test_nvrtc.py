"""Compiling the kernels on a machine without a GPU: the results, and the cache."""

import shutil
import struct
import subprocess
from functools import cache

import pytest
from ptxas_report import usage_of

from perception_nodes.gpu import nvrtc as kernels
from perception_nodes.gpu.cuda.errors import CudaError
from perception_nodes.gpu.nvrtc import KERNELS, Nvrtc, cubin, nvrtc

ENTRIES = {
    "fetch": {"fetch"},
    "preprocess": {"preprocess"},
    "decode": {"find_candidates", "decode_boxes", "suppress"},
    "network": {"convolve"},
}
GPUS = (75, 80, 87, 89, 90, 100, 120)
"""Compute capabilities."""
CUDA = 13000
"""Version of the driver."""
REGISTERS, THREADS = 65536, 1536
"""Resources of a multiprocessor of each, and the threads that it holds (some hold 2048)."""
MOST_REGISTERS = {"fetch": 32, "preprocess": 128, "decode": 128, "network": 168}
"""With 168 of a thread, three blocks of the network are on a multiprocessor at once."""


@cache
def compiled_by_nvrtc(name, sm):
    return nvrtc(CUDA).compile(name, sm)


def by_nvrtc(name, sm, tmp_path):
    return compiled_by_nvrtc(name, sm)[1]


def by_nvcc(name, sm, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed (it is part of the CUDA toolkit)")
    command = ["nvcc", "-std=c++17", f"-arch=sm_{sm}", "-Xptxas", "-v", "-cubin"]
    command += ["-o", str(tmp_path / "made.cubin"), str(KERNELS / f"{name}.cu")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("compiled", [by_nvrtc, by_nvcc])
@pytest.mark.parametrize("sm", GPUS)
@pytest.mark.parametrize("name", ENTRIES)
def test_no_kernel_spills_or_uses_local_memory(name, sm, compiled, tmp_path):
    report = compiled(name, sm, tmp_path)
    assert "warning" not in report
    usage = usage_of(report)
    assert set(usage) == ENTRIES[name]
    for found in usage.values():
        assert 0 < found.registers <= MOST_REGISTERS[name]
        assert (found.stack_bytes, found.spilled_bytes) == (0, 0)
        assert found.shared_bytes <= 48 * 1024
    if name == "preprocess":
        assert found.registers * (1024 if sm == 75 else THREADS) <= REGISTERS


def code_of(cubin):
    """The instructions in a cubin, an ELF file, by kernel."""
    sections, count, names_at = (
        struct.unpack_from(form, cubin, at)[0] for form, at in (("<Q", 40), ("<H", 60), ("<H", 62))
    )
    heads = [struct.unpack_from("<IIQQQQ", cubin, sections + 64 * i) for i in range(count)]
    found = {}
    for name_at, _, _, _, first, size in heads:
        at = heads[names_at][4] + name_at
        name = cubin[at : cubin.index(b"\0", at)].decode()
        if name.startswith(".text."):
            found[name[len(".text.") :]] = cubin[first : first + size]
    return found


def uncontracted(monkeypatch, sm):
    """The instructions of `decode` compiled without contraction."""
    monkeypatch.setattr(kernels, "OPTIONS", (*kernels.OPTIONS, "--fmad=false"))
    return code_of(nvrtc(CUDA).compile("decode", sm)[0])


@pytest.mark.parametrize("sm", GPUS)
def test_there_is_nothing_that_a_compiler_may_contract(sm, monkeypatch):
    """Then a GPU rounds like the host, with any options. `preprocess` only uses integers."""
    code = code_of(compiled_by_nvrtc("decode", sm)[0])
    assert set(code) == ENTRIES["decode"]
    assert code == uncontracted(monkeypatch, sm)


def test_what_may_be_contracted_is_seen(monkeypatch, tmp_path):
    for path in KERNELS.glob("*.cu*"):
        text = path.read_text()
        for operation, sign in (("fmul", "*"), ("fadd", "+")):
            text = text.replace(f"__{operation}_rn(a.value, b.value)", f"a.value {sign} b.value")
        (tmp_path / path.name).write_text(text)
    monkeypatch.setattr(kernels, "KERNELS", tmp_path)
    monkeypatch.setattr(kernels, "HEADERS", sorted(tmp_path.glob("*.cuh")))
    code = code_of(nvrtc(CUDA).compile("decode", 90)[0])
    assert code["decode_boxes"] != uncontracted(monkeypatch, 90)["decode_boxes"]


class Counting:
    """A compiler that counts what it has compiled."""

    version, compiled = 13000, 0

    def compile(self, name, sm):
        self.compiled += 1
        return f"{name} for {sm}".encode(), ""


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    counting = Counting()
    monkeypatch.setattr(kernels, "nvrtc", lambda cuda: counting)
    return counting


def test_what_was_compiled_is_kept_for_each_gpu_compiler_and_source(
    compiler, monkeypatch, tmp_path
):
    for _ in range(2):
        assert cubin("decode", 87, CUDA) == b"decode for 87"
        assert cubin("decode", 90, CUDA) == b"decode for 90"
    assert compiler.compiled == 2
    compiler.version = 13010
    cubin("decode", 87, CUDA)
    assert compiler.compiled == 3
    shutil.copytree(KERNELS, tmp_path / "kernels")
    monkeypatch.setattr(kernels, "KERNELS", tmp_path / "kernels")
    cubin("decode", 87, CUDA)
    assert compiler.compiled == 3
    (tmp_path / "kernels/decode.cu").write_text("// other\n")
    cubin("decode", 87, CUDA)
    assert compiler.compiled == 4


@pytest.mark.parametrize("damage", [b"", bytes(200)])
def test_a_damaged_file_is_made_again(compiler, tmp_path, damage):
    cubin("decode", 87, CUDA)
    (path,) = tmp_path.rglob("*.cubin")
    path.write_bytes(damage)
    for _ in range(2):
        assert cubin("decode", 87, CUDA) == b"decode for 87"
    assert compiler.compiled == 2


def test_a_cache_that_cannot_be_written_is_named(compiler, tmp_path):
    (tmp_path / "perception_nodes").write_text("no folder")
    with pytest.raises(CudaError, match=r"/kernels cannot be written: .*XDG_CACHE_HOME$"):
        cubin("decode", 87, CUDA)


def test_a_gpu_the_compiler_does_not_know_is_told():
    with pytest.raises(CudaError, match=r"decode.cu for sm_35 .*architecture.*; install"):
        nvrtc(CUDA).compile("decode", 35)


def test_a_source_that_does_not_compile_is_told_with_the_compilers_words(monkeypatch, tmp_path):
    (tmp_path / "bad.cu").write_text("this is no kernel")
    monkeypatch.setattr(kernels, "KERNELS", tmp_path)
    with pytest.raises(CudaError, match=r"bad.cu for sm_87 .* error"):
        nvrtc(CUDA).compile("bad", 87)


def installed(monkeypatch, folder, *versions):
    """Let these be the compilers, each a library in C that tells its version alone."""
    monkeypatch.setattr(kernels, "LIBRARIES", [f"libnvrtc.so.{version[0]}" for version in versions])
    lib = folder / "nvidia/cuda_nvrtc/lib"
    lib.mkdir(parents=True)
    for major, minor in versions:
        source = f"int nvrtcVersion(int *a, int *b) {{ return *a = {major}, *b = {minor}, 0; }}"
        command = ["cc", "-shared", "-x", "c", "-", "-o", str(lib / f"libnvrtc.so.{major}")]
        subprocess.run(command, input=source, text=True, check=True)
    monkeypatch.setattr(kernels, "_wheels", lambda name: [str(lib / name)])


@pytest.mark.parametrize(
    ("driver", "versions", "chosen"),
    [
        (13000, [(13, 5), (12, 9)], 13050),
        (12040, [(13, 5), (12, 9)], 12090),
        (13000, [(12, 9)], 12090),
    ],
)
def test_its_major_version_is_at_most_the_drivers(monkeypatch, tmp_path, driver, versions, chosen):
    """A driver refuses what a newer major version has compiled."""
    installed(monkeypatch, tmp_path, *versions)
    assert Nvrtc(driver).version == chosen


def test_one_that_is_too_new_is_told(monkeypatch, tmp_path):
    installed(monkeypatch, tmp_path, (13, 5))
    text = "NVRTC 13.5 is installed, the driver is for CUDA 12.4 .*nvidia-cuda-nvrtc-cu12"
    with pytest.raises(CudaError, match=text):
        Nvrtc(12040)


def test_without_the_compiler_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(kernels, "LIBRARIES", ("libnone.so",))
    with pytest.raises(CudaError, match="pip install nvidia-cuda-nvrtc"):
        Nvrtc(CUDA)
