"""The benchmark of the GPU: its checks find what is wrong, and all of it runs.

The GPU is `fake_gpu.py` with the host's kernels: what it takes says nothing.
"""

import io
import json
import subprocess
import sys
import types
from unittest.mock import Mock

import fake_tensorrt
import gpu as command
import gpu_checks
import gpu_clocks
import gpu_network
import gpu_sanitizer
import gpu_stages
import gpu_whole
import kernels_on_host
import numpy as np
import pytest

from perception_nodes.core.inference import BackendError
from perception_nodes.gpu.preprocess_job import PreprocessJob


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
    all_images = gpu_network.images
    monkeypatch.setattr(gpu_network, "images", lambda net: {"noise": all_images(net)["noise"]})
    monkeypatch.setattr(gpu_network, "MODELS", ("open-xs",))
    return len(few) + len(heads[::5])


@pytest.fixture
def gpu(gpu, monkeypatch, small):
    gpu.memory_bytes = 1 << 30
    monkeypatch.setattr(gpu_stages, "SOURCE", (64, 48))
    monkeypatch.setattr(gpu_stages, "COLD_BYTES", 1 << 16)
    monkeypatch.setattr(gpu_whole, "LOAD_BYTES", 1 << 12)
    for name in ("LAUNCHES", "SAMPLES", "WARM_UP"):
        monkeypatch.setattr(gpu_stages, name, 2)
    return gpu


@pytest.fixture
def runtime(gpu, monkeypatch, tmp_path):
    """A TensorRT that finds nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_tensorrt.install(monkeypatch, fake_tensorrt.make(gpu, value_of=lambda mean, place: -20.0))


@pytest.fixture
def only_networks(runtime, monkeypatch):
    """Neither checks nor figures of single stages, which take the fake GPU long."""
    stages = {"bandwidth_gb_s": 1.0, "preprocess": [], "decode": [], "back_to_host_bytes": 1}
    monkeypatch.setattr(gpu_stages, "on_device", lambda device: (None, None))
    monkeypatch.setattr(gpu_checks, "compare", lambda *_, few: (1, []))
    monkeypatch.setattr(gpu_network, "compare", lambda *_: (1, []))
    monkeypatch.setattr(gpu_stages, "measure", lambda *_: stages)


FEW = ["--model", "open-xs", "--frames", "5", "--hz", "1000"]


def test_the_hosts_build_is_checked_without_a_gpu(small, capsys):
    assert command.main(["--host"]) == 0
    said = capsys.readouterr().out
    assert f"{small} of {small} cases compiled for the host equal their specification" in said
    assert "64 of 64 layers of networks compiled for the host equal their specification" in said


def wrong_layer(outputs, plan, buffers):
    buffers[-1][5] ^= 1
    return outputs


def wrong_bits(made, frame, plan, fetched):
    made.reshape(-1)[-1] += fetched
    return made


def wrong_boxes(result, *_):
    result.scores[0] = np.nextafter(np.float32(result.scores[0]), np.float32(1))
    return result


@pytest.mark.parametrize(
    ("kernel", "spoil", "texts"),
    [
        ("run_network", wrong_layer, ["open-xs, noise, ", ": 1 of ", "63 of 64 layers"]),
        ("preprocess", wrong_bits, ["1 of 319488 values differ"]),
        ("decode", wrong_boxes, ["decoding some objects, no lens: the results differ"]),
    ],
)
def test_what_is_wrong_is_found_and_named(kernel, spoil, texts, small, monkeypatch, capsys):
    right = getattr(kernels_on_host, kernel)

    def nearly(*arguments, **options):
        return spoil(right(*arguments, **options), *arguments, **options)

    monkeypatch.setattr(kernels_on_host, kernel, nearly)
    assert command.main(["--host"]) == 1
    said = capsys.readouterr().out
    assert all(text in said for text in texts)


def test_without_onnx_layers_are_not_checked_which_all_does_not_allow(small, monkeypatch, capsys):
    for name in ("onnx", "perception_nodes.backends.qdq"):
        monkeypatch.setitem(sys.modules, name, None)
    assert command.main(["--host"]) == 0
    said = capsys.readouterr()
    assert "the network's layers are not checked: " in said.err and "layers" not in said.out
    assert command.main(["--host", "--all"]) == 2


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


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--frames", "0"], "--frames 0: it must be at least 1"),
        (["--hz", "0"], "--hz 0: it must be above 0"),
    ],
)
def test_what_is_no_measurement_is_refused(options, text, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(options)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_it_loads_with_the_packages_that_it_names(root):
    """A machine with a GPU may have no others; without those for the network it checks."""
    program = """
import sys
others = ["rclpy", "iceoryx2", "simplejpeg", "torch", "onnxruntime", "openvino", "rich"]
for name in [*others, "cv2", "pydantic", "yaml", "onnx", "typer", "rosbags", "av", "mcap"]:
    sys.modules[name] = None
sys.argv = ["gpu.py"]
import gpu, gpu_checks, gpu_clocks, gpu_network, gpu_sanitizer, gpu_stages, gpu_whole, gpu_page
import kernels_on_host
for name in ("cv2", "pydantic", "simplejpeg", "yaml"):
    del sys.modules[name]
import perception_nodes.backends.contract
import perception_nodes.networks.model
import perception_nodes.system.environment
try:
    import perception_nodes.backends.tensorrt
except ImportError as error:
    assert "tensorrt" in str(error)
"""
    subprocess.run([sys.executable, "-c", program], cwd=root / "benchmarks", check=True)


def test_the_device_is_checked(gpu, small, capsys):
    assert command.main(["--check"]) == 0
    said = capsys.readouterr().out
    assert f"{small} of {small} cases on the Fake GPU equal" in said
    assert "64 of 64 layers of networks on the Fake GPU equal" in said


SANITIZER = """#!/bin/sh
echo "$@" >> {folder}/asked
test "$2" != {bad} || {{ echo "ERROR SUMMARY: 2 errors"; exit 3; }}
"""


@pytest.mark.parametrize(("bad", "status"), [("none", 0), ("racecheck", 1)])
def test_the_sanitizer_runs_a_few_of_the_checks(bad, status, gpu, monkeypatch, tmp_path, capsys):
    program = tmp_path / "compute-sanitizer"
    program.write_text(SANITIZER.format(folder=tmp_path, bad=bad))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert command.main(["--check", "--all"]) == status
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[1] for line in asked] == list(gpu_sanitizer.TOOLS)
    assert all(line.endswith("gpu.py --check --few") for line in asked)
    said = capsys.readouterr().out
    assert "memcheck: no errors" in said and ("racecheck: ERROR SUMMARY: 2" in said) == bool(status)


def test_a_device_with_other_bits_is_not_measured(gpu, capsys, tmp_path):
    def other(gpu, grid, block, packed):
        preprocess(gpu, grid, block, packed)
        gpu.view(PreprocessJob.from_buffer_copy(packed).out, 1)[0] ^= 1

    preprocess = gpu.kernels["preprocess"]
    gpu.kernels["preprocess"] = other
    assert command.main(["--out", str(tmp_path)]) == 1
    assert "values differ" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_everything_is_measured_and_reported(gpu, runtime, capsys, tmp_path):
    conditions = ["--conditions", "quiet", "stream", "--out", str(tmp_path)]
    assert command.main([*FEW, "--backends", "tensorrt", *conditions]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["gpu"]["name"] == "Fake GPU"
    network = result["networks"]["tensorrt"]
    assert network["name"].startswith("open-xs on TensorRT 10")
    assert set(network["conditions"]) == {"quiet", "stream"}
    for paces in network["conditions"].values():
        assert set(paces) == {"1000 Hz", "tight"}
        for one in paces.values():
            assert (one["frames"], one["copies_a_frame"], one["clocks"]) == (5, 0, {})
            took = one["shared_memory_to_boxes_ms"]
            assert 0 < took["p50"] <= took["p99"] <= took["p99_9"] <= took["max"]
    assert network["graph_on_device_ms"]["p50"] > 0
    assert network["frames_come_by"] in network["transfer_us"] and network["registrations"] == 1
    assert len(result["preprocess"]) == 8
    assert [one["objects"] for one in result["decode"]] == ["none", "some", "a flood"]
    assert [one["found"] > 0 for one in result["decode"]] == [False, True, True]
    assert result["back_to_host_bytes"] < 10_000 and not result["missing"]
    page = (tmp_path / "gpu.html").read_text()
    assert "Fake GPU" in page and "http" not in page.replace("http-equiv", "")
    said = capsys.readouterr().out
    assert "Decoding and suppression" in said and "1000 Hz" in said and "not known" in said


@pytest.mark.parametrize("period_s", [0.05, 0.0])
def test_paced_frames_begin_at_their_times(period_s, monkeypatch):
    """One that is late makes the next one begin at once, not all that follow."""

    class Detector:
        now, begun, copies = 100.0, [], 0

        def launch(self, image, placement):
            self.begun.append(self.now)
            self.now += 0.12 if len(self.begun) == 3 else 0.004

        def result(self):
            pass

    def sleep(seconds):
        detector.now += seconds

    detector = Detector()
    clock = types.SimpleNamespace(perf_counter=lambda: detector.now, sleep=sleep)
    monkeypatch.setattr(gpu_whole, "time", clock)
    monkeypatch.setattr(gpu_stages, "WARM_UP", 2)
    frames, nothing = [None] * gpu_whole.SLOTS, lambda *_: None
    took = gpu_whole.time_frames(detector, frames, None, 4, period_s, nothing, nothing)
    between = [0.05, 0.05, 0.12, 0.05, 0.05] if period_s else [0.004, 0.004, 0.12, 0.004, 0.004]
    np.testing.assert_allclose(np.diff(detector.begun), between)
    assert took["over_aim"] == 4 and took["shared_memory_to_boxes_ms"]["max"] == pytest.approx(120)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--model", "none-such"], "gpu.py: no network was measured: tensorrt: "),
        ([*FEW, "--conditions", "process"], "should keep the GPU busy does not start"),
    ],
)
def test_what_has_not_measured_what_matters_is_no_quiet_success(
    options, text, gpu, only_networks, monkeypatch, capsys, tmp_path
):
    """Without the load, the figures would be those of an idle GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert command.main([*options, "--backends", "tensorrt", "--out", str(tmp_path / "out")]) == 2
    assert text in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_backend_that_is_not_there_is_named_beside_the_other(
    gpu, only_networks, monkeypatch, tmp_path
):
    opened = gpu_whole.opened

    def only_tensorrt(name, *rest):
        if name == "cuda":
            raise ImportError("No module named 'onnx'")
        return opened(name, *rest)

    monkeypatch.setattr(gpu_whole, "opened", only_tensorrt)
    assert command.main([*FEW, "--conditions", "quiet", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert list(result["networks"]) == ["tensorrt"]
    assert result["missing"] == ["cuda: No module named 'onnx'"]


def test_a_failure_in_the_middle_is_one_line(gpu, only_networks, monkeypatch, capsys, tmp_path):
    fail = Mock(side_effect=BackendError("TensorRT 10 failed:\n no room"))
    monkeypatch.setattr(gpu_whole, "time_frames", fail)
    options = ["--backends", "tensorrt", "--out", str(tmp_path)]
    assert command.main([*FEW, *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "gpu.py: TensorRT 10 failed: no room"


def test_clocks_are_summed_up():
    text = """0, 1980, 2619, 41, 118.20, P0, 0x0000000000000000
0, 345, 2619, 40, [N/A], P0, 0x0000000000000001
0, 1980, 2619, 44, 121.90, P0, 0x0000000000000000
1, [N/A], 0, 30, 9.5, P8, Not Active
0, 19"""
    first, second = gpu_clocks.summary(text)["0"], gpu_clocks.summary(text)["1"]
    assert first["sm_mhz"] == [345, 1980, 1980] and first["temperature_c"] == [40, 41, 44]
    assert first["limited_by"] == ["0x0000000000000000", "0x0000000000000001"]
    assert "sm_mhz" not in second and second["state"] == ["P8"]
    assert gpu_clocks.summary("") == {}


def test_clocks_are_logged_while_it_measures(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\necho "$1" > told\necho 0, 900, 2619, 41, 9, P2, none\nexec sleep 60\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    with gpu_clocks.clocks() as found:
        while not (tmp_path / "told").exists() or not (tmp_path / "told").read_text():
            pass
    assert (tmp_path / "told").read_text().startswith("--query-gpu=index,clocks.sm,clocks.mem,")
    assert set(found) <= {"0"}


def test_a_folder_that_takes_no_files_is_told_before_anything_is_measured(gpu, capsys, monkeypatch):
    monkeypatch.setattr(gpu_stages, "measure", lambda *_: pytest.fail("it was measured"))
    assert command.main(["--out", "/proc/out"]) == 2
    assert "--out /proc/out cannot be written: " in capsys.readouterr().err


def test_a_load_goes_on_until_it_is_told_to_end(gpu, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert command.main(["--load"]) == 0
    assert capsys.readouterr().out == "ready\n"
    assert gpu.calls["cuMemsetD8Async"] > 0


@pytest.mark.parametrize(
    ("encoding", "lens"), [("bgr8", "no lens"), ("nv12", "barrel"), ("yuyv", "no lens")]
)
def test_what_must_be_moved_is_counted_as_the_kernel_reads(encoding, lens, monkeypatch):
    """Every sector counted holds something that matters, and no other one does."""
    monkeypatch.setattr(gpu_stages, "SOURCE", (320, 180))
    monkeypatch.setattr(gpu_stages, "SIZE", (48, 32))
    monkeypatch.setattr(gpu_stages, "SECTOR_BYTES", 1)
    image = gpu_checks.noise(encoding, 320, 180)
    case = gpu_checks.PictureCase("", image, gpu_stages.SIZE, gpu_checks.lenses(320, 180)[lens])
    moved = gpu_stages.bytes_moved(case.plan)
    assert moved["out"] == 48 * 32 * 3
    assert (moved["positions"] > 6 * 1000) == (lens != "no lens")
    pixels = np.frombuffer(image.data, np.uint8)
    # A byte matters where its two extremes, in any picture, make different outputs.
    touched, random = np.zeros(pixels.size, bool), np.random.default_rng(0)
    before = kernels_on_host.preprocess(pixels, case.plan)
    for at in random.choice(pixels.size, 150, replace=False):
        for value in (0, 255):
            changed = pixels.copy()
            changed[at] = value
            after = kernels_on_host.preprocess(changed, case.plan)
            touched[at] |= not np.array_equal(after, before)
            if touched[at]:
                break
    assert abs(touched.sum() / 150 - moved["frame"] / pixels.size) < 0.12
