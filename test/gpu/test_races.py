"""No two threads of a kernel touch the same memory without a barrier between them."""

import subprocess
from pathlib import Path

import pytest

from perception_nodes.gpu.nvrtc import KERNELS

SOURCE = Path(__file__).with_name("races.cpp")
RACE = "WARNING: ThreadSanitizer: data race"


def build(folder, kernel, kernels=KERNELS):
    program = folder / kernel
    command = ["g++", "-std=c++17", "-O1", "-g", "-fsanitize=thread", "-ffp-contract=off"]
    command += ["-pthread", f"-I{kernels}", f'-DKERNEL="{kernel}.cu"', f"-D{kernel.upper()}"]
    done = subprocess.run(
        [*command, "-o", str(program), str(SOURCE)], capture_output=True, text=True, check=False
    )
    if "tsan" in done.stderr:
        pytest.skip("ThreadSanitizer's library is not installed (libtsan, part of GCC)")
    assert done.returncode == 0, done.stderr
    return program


def run(program):
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer cannot run under this kernel's address randomization")
    return done


@pytest.mark.parametrize("kernel", ["decode", "preprocess", "network"])
def test_no_kernel_races(kernel, tmp_path):
    done = run(build(tmp_path, kernel))
    assert RACE not in done.stderr, done.stderr
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("kernel", "was", "becomes"),
    [
        ("decode", "atomicOr(&shared.seen[rank / 32], 1u << rank % 32)", "shared.seen[0] |= 1"),
        ("decode", "job.keys[atomicAdd(&job.state->found, 1)]", "job.keys[job.state->found++]"),
        ("decode", "if (thread >= WORDS) return;", "thread %= WORDS;"),
        ("preprocess", "if (thread == 0) shared.frame", "shared.frame"),
        ("network", "&shared.sums[warp][", "&shared.sums[0]["),
        ("network", "return {number / across * PIXELS,", "return {number / across * GROUP,"),
    ],
)
def test_a_race_would_be_seen(kernel, was, becomes, tmp_path):
    for path in KERNELS.glob("*.cu*"):
        text = path.read_text()
        if path.stem == kernel:
            assert was in text
            text = text.replace(was, becomes)
        (tmp_path / path.name).write_text(text)
    assert RACE in run(build(tmp_path, kernel, tmp_path)).stderr
