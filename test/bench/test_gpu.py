"""The benchmark of the GPU: its checks find what is wrong, and all of it runs.

The GPU is `fake_gpu.py` with the host's kernels: what it takes says nothing.
"""

import io
import json
import subprocess
import sys

import gpu as command
import gpu_checks
import gpu_stages
import gpu_whole
import kernels_on_host
import numpy as np
import pytest
from fake_gpu import FakeGpu, install
from fake_gpu_kernels import install_kernels, run_preprocess

from perception_nodes.gpu import stages
from perception_nodes.gpu.preprocess_job import InputFormat


@pytest.fixture(scope="module")
def pictures():
    return list(gpu_checks.picture_cases())


@pytest.fixture(scope="module")
def heads():
    return list(gpu_checks.head_cases())


@pytest.fixture
def small(monkeypatch, pictures, heads):
    """Few and small cases."""
    few = [case for case in pictures if case.image.width * case.image.height < 50_000][::7]
    few += pictures[:4:2]  # without a lens and with one
    monkeypatch.setattr(gpu_checks, "picture_cases", lambda: iter(few))
    monkeypatch.setattr(gpu_checks, "head_cases", lambda: iter(heads[::5]))
    return len(few) + len(heads[::5])


@pytest.fixture
def gpu(monkeypatch, small):
    gpu = FakeGpu(memory_bytes=1 << 30)
    install_kernels(gpu)
    install(monkeypatch, gpu)
    monkeypatch.setattr(stages, "cubin", lambda *names: b"cubin")
    monkeypatch.setattr(gpu_stages, "SOURCE", (64, 48))
    monkeypatch.setattr(gpu_stages, "COLD_BYTES", 1 << 16)
    monkeypatch.setattr(gpu_whole, "LOAD_BYTES", 1 << 12)
    for name in ("LAUNCHES", "SAMPLES", "WARM_UP"):
        monkeypatch.setattr(gpu_stages, name, 2)
    return gpu


def test_the_cases_are_of_every_encoding_lens_and_kind_of_output(pictures):
    assert {case.image.encoding for case in pictures} == set(gpu_checks.ENCODINGS)
    assert {case.input_format for case in pictures} == set(gpu_checks.INPUT_FORMATS)
    assert {info.model for info in {case.info for case in pictures}} == {"plumb_bob", "equidistant"}


def test_the_hosts_build_is_checked_without_a_gpu(small, capsys):
    assert command.main(["--host"]) == 0
    said = capsys.readouterr().out
    assert f"{small} of {small} cases compiled for the host equal their specification" in said


def test_wrong_bits_are_found_and_named(small, monkeypatch, capsys):
    def nearly(frame, plan, input_format):
        made = right(frame, plan, input_format)
        made.reshape(-1)[-1] += 1
        return made

    right = kernels_on_host.preprocess
    monkeypatch.setattr(kernels_on_host, "preprocess", nearly)
    assert command.main(["--host"]) == 1
    said = capsys.readouterr().out
    assert "1 of 319488 values differ" in said


def test_wrong_boxes_are_found(small, monkeypatch, capsys):
    right = kernels_on_host.decode

    def nearly(*arguments):
        result = right(*arguments)
        result.scores[0] = np.nextafter(np.float32(result.scores[0]), np.float32(1))
        return result

    monkeypatch.setattr(kernels_on_host, "decode", nearly)
    assert command.main(["--host"]) == 1
    assert "decoding some objects, no lens: the results differ" in capsys.readouterr().out


def test_without_a_compiler_it_is_told(small, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert command.main(["--host"]) == 2
    assert "install g++" in capsys.readouterr().err


def test_without_a_gpu_it_says_so_and_offers_the_host(root):
    done = subprocess.run(
        [sys.executable, root / "benchmarks/gpu.py"], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        pytest.skip("there is a GPU here")
    assert done.returncode == 2
    assert "gpu.py: " in done.stderr and "--host" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "examples:" in said and "exit status: 0" in said and "--load" not in said


def test_no_frames_are_no_measurement(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--frames", "0"])
    assert ended.value.code == 2
    assert "--frames 0: it must be at least 1" in capsys.readouterr().err


def test_it_loads_without_ros_opencv_and_what_reads_models(root):
    """A machine with a GPU may have none of them."""
    program = """
import sys
for name in ("cv2", "rclpy", "iceoryx2", "simplejpeg", "pydantic", "yaml", "plotly", "torch"):
    sys.modules[name] = None
sys.argv = ["gpu.py"]
import gpu, gpu_checks, gpu_stages, gpu_whole, gpu_page
import kernels_on_host
"""
    subprocess.run([sys.executable, "-c", program], cwd=root / "benchmarks", check=True)


def test_the_device_is_checked(gpu, small, capsys):
    assert command.main(["--check"]) == 0
    assert f"{small} of {small} cases on the Fake GPU equal" in capsys.readouterr().out


def test_a_device_with_other_bits_is_not_measured(gpu, capsys, tmp_path):
    def other(gpu, grid, block, packed):
        run_preprocess(gpu, grid, block, packed)
        raise_one(gpu, packed)

    def raise_one(gpu, packed):
        from perception_nodes.gpu.preprocess_job import PreprocessJob

        gpu.view(PreprocessJob.from_buffer_copy(packed).out, 1)[0] ^= 1

    gpu.kernels["preprocess"] = other
    assert command.main(["--out", str(tmp_path)]) == 1
    assert "values differ" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_everything_is_measured_and_reported(gpu, capsys, tmp_path):
    conditions = ["--frames", "5", "--conditions", "quiet", "stream"]
    assert command.main([*conditions, "--model", "none-such", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["gpu"]["name"] == "Fake GPU"
    assert set(result["whole"]) == {"quiet", "stream"}
    for condition in result["whole"].values():
        assert condition["frames"] == 5
        assert condition["copies_a_frame"] == 0
        for kind in ("shared_memory_to_boxes_ms", "graph_on_device_ms"):
            took = condition[kind]
            assert 0 < took["p50"] <= took["p99"] <= took["p99_9"] <= took["max"]
    assert len(result["preprocess"]) == 8
    assert [one["objects"] for one in result["decode"]] == ["none", "some", "a flood"]
    assert [one["found"] > 0 for one in result["decode"]] == [False, True, True]
    assert 0 < result["host_to_device_bytes"] <= 64 * 48 * 3 // 2 + 16
    assert result["back_to_host_bytes"] < 10_000
    assert "measured without one" in result["missing"][0]
    page = (tmp_path / "gpu.html").read_text()
    assert "Fake GPU" in page and "http" not in page.replace("http-equiv", "")
    assert "Decoding and suppression" in capsys.readouterr().out


def test_a_folder_that_takes_no_files_is_told_before_anything_is_measured(gpu, capsys, monkeypatch):
    monkeypatch.setattr(gpu_whole, "measure", lambda *_: pytest.fail("it was measured"))
    assert command.main(["--out", "/proc/out"]) == 2
    assert "--out /proc/out cannot be written: " in capsys.readouterr().err


def test_a_load_that_does_not_start_is_no_quiet_success(gpu, monkeypatch, capsys, tmp_path):
    """The figures would be those of an idle GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    options = ["--frames", "1", "--conditions", "process", "--out", str(tmp_path)]
    assert command.main(options) == 2
    assert "should keep the GPU busy does not start" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_load_goes_on_until_it_is_told_to_end(gpu, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert command.main(["--load"]) == 0
    assert capsys.readouterr().out == "ready\n"
    assert gpu.calls["cuMemsetD8Async"] > 0


@pytest.mark.parametrize("lens", ["no lens", "barrel"])
@pytest.mark.parametrize("encoding", ["bgr8", "nv12", "yuyv"])
def test_what_must_be_moved_is_counted_as_the_kernel_reads(encoding, lens, monkeypatch):
    """Every sector counted holds something that matters, and no other one does."""
    monkeypatch.setattr(gpu_stages, "SOURCE", (320, 180))
    monkeypatch.setattr(gpu_stages, "INPUT_FORMAT", InputFormat(48, 32))
    monkeypatch.setattr(gpu_stages, "SECTOR_BYTES", 1)
    info = gpu_checks.lenses(320, 180)[lens]
    image = gpu_checks.noise(encoding, 320, 180)
    case = gpu_checks.PictureCase("", image, gpu_stages.INPUT_FORMAT, info)
    moved = gpu_stages.bytes_moved(case.plan, gpu_stages.INPUT_FORMAT)
    assert moved["out"] == 48 * 32 * 3
    assert (moved["positions"] > 6 * 1000) == (lens != "no lens")
    pixels = np.frombuffer(image.data, np.uint8)
    # A byte matters where its two extremes, in any picture, make different outputs.
    touched, random = np.zeros(pixels.size, bool), np.random.default_rng(0)
    before = kernels_on_host.preprocess(pixels, case.plan, case.input_format)
    for at in random.choice(pixels.size, 150, replace=False):
        for value in (0, 255):
            changed = pixels.copy()
            changed[at] = value
            touched[at] |= not np.array_equal(
                kernels_on_host.preprocess(changed, case.plan, case.input_format), before
            )
            if touched[at]:
                break
    assert abs(touched.sum() / 150 - moved["frame"] / pixels.size) < 0.12
