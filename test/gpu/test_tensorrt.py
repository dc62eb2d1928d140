"""The TensorRT backend over a TensorRT and a GPU in Python: calls, cache, and damaged files.

test_tensorrt_rtx.py builds the shipped models with a real TensorRT.
"""

import subprocess
import sys
from pathlib import Path

import fake_gpu
import fake_tensorrt
import numpy as np
import pytest
from fake_gpu import FakeGpu, Verdict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perception_nodes.backends import tensorrt as backend_module
from perception_nodes.backends.contract import BackendSettings, NotBuilt, open_backend
from perception_nodes.core.inference import BackendError, BackendLost
from perception_nodes.gpu.tensorrt import library
from perception_nodes.gpu.tensorrt.cache import CachedEngine, EngineCache, EngineKey
from perception_nodes.networks.model import ModelError, load_model

VERSIONS = {
    "10": ("tensorrt", "10.13.3.9"),
    "11": ("tensorrt", "11.4.0.106"),
    "rtx": ("tensorrt_rtx", "1.7.1.116"),
}


@pytest.fixture
def gpu():
    return FakeGpu(memory_bytes=1 << 24)


@pytest.fixture(autouse=True)
def runtime(monkeypatch, gpu):
    """Installs a fake runtime: `10`, unless the test names another."""

    def install(version, cuda=0):
        fake_tensorrt.install(monkeypatch, fake_tensorrt.make(gpu, *VERSIONS[version]), cuda)

    fake_gpu.install(monkeypatch, gpu)
    install("10")
    return install


@pytest.fixture
def model():
    return load_model("open-n")


def opened(cache, model, **settings):
    backend = open_backend("tensorrt", BackendSettings(cache_dir=str(cache), **settings))
    backend.info = backend.load(model)
    return backend


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("integrated", [0, 1])
def test_infers(runtime, gpu, tmp_path, model, version, integrated):
    gpu.integrated = integrated
    runtime(version)
    backend = opened(tmp_path, model)
    assert backend.info.runtime.endswith("1 of 1 convolutions in 8 bits")
    assert backend.info.device == "Fake GPU (SM89)"
    size = (model.input.height, model.input.width, 3)
    for value in (0, 7, 200):
        heads = backend.infer(np.full(size, value, np.uint8))
        for place, tensor in enumerate([*heads.boxes, *heads.classes], 1):
            assert tensor.dtype == np.float32 and (tensor == value + place).all()
    backend.close()
    assert not +gpu.open


@pytest.mark.parametrize(
    "size, kind",
    [
        pytest.param((1, 1, 3), np.uint8, id="a size that NumPy would repeat"),
        pytest.param((256, 416, 3), bool, id="a type that NumPy would convert"),
    ],
)
def test_an_image_that_is_not_the_networks_input_is_refused(tmp_path, model, size, kind):
    backend = opened(tmp_path, model)
    text = rf"tensorrt: the image is {np.dtype(kind)} .*, not uint8 \(256, 416, 3\)"
    with pytest.raises(BackendError, match=text):
        backend.infer(np.zeros(size, kind))
    backend.close()


def test_its_context_is_set_whatever_another_library_has_set(gpu, tmp_path, model):
    backend = opened(tmp_path, model)
    image = np.zeros((model.input.height, model.input.width, 3), np.uint8)
    for enter in (lambda: backend.infer(image), backend.another_network, backend.close):
        gpu.current_context = "another library's"
        enter()
    assert not +gpu.open


@pytest.mark.parametrize(("folder", "builds"), [("cache", 1), ("", 2)])
def test_engine_is_kept_in_a_cache(gpu, tmp_path, model, folder, builds):
    for _ in range(2):
        opened(folder and tmp_path / folder, model).close()
    assert gpu.calls["build"] == builds
    assert not list(tmp_path.rglob("*.part")), "something half-written is left"


def test_measurements_are_kept_for_other_models(tmp_path, model):
    opened(tmp_path, model).close()
    opened(tmp_path, load_model("open-xs")).close()
    (timing,) = tmp_path.glob("*.timing")
    assert timing.read_bytes() == b"measured measured "


@pytest.mark.parametrize("content", [b"damaged", b"of another GPU"])
def test_measurements_that_do_not_fit_are_left(tmp_path, model, content):
    opened(tmp_path, model).close()
    (timing,) = tmp_path.glob("*.timing")
    timing.write_bytes(content)
    next(tmp_path.glob("*.engine")).unlink()
    opened(tmp_path, model).close()
    assert timing.read_bytes() == b"measured "


@pytest.mark.parametrize("version", VERSIONS)
def test_the_network_is_one_graph(runtime, tmp_path, model, version):
    """TensorRT-RTX allows this if the engine's memory is ours: it is built and run so."""
    runtime(version)
    backend = opened(tmp_path, model)
    assert "without a CUDA graph" not in backend.info.runtime
    network = backend.another_network()
    assert network.capturable(network.device.stream())
    backend.close()


def test_what_cannot_be_captured_runs_without_a_graph_and_says_so(runtime, gpu, tmp_path, model):
    runtime("rtx")
    gpu.failures["capturable"] = True
    backend = opened(tmp_path, model)
    assert backend.info.runtime.endswith("without a CUDA graph")
    heads = backend.infer(np.full((model.input.height, model.input.width, 3), 9, np.uint8))
    assert (heads.boxes[0] == 10).all()
    network = backend.another_network()
    assert not network.capturable(network.device.stream())
    backend.close()


def test_an_engine_that_does_not_run_is_not_kept(gpu, tmp_path, model):
    """It would keep the next start from building another one."""
    gpu.failures["execute"] = True
    with pytest.raises(BackendError, match="failed"):
        opened(tmp_path, model)
    assert not list(tmp_path.glob("*.engine")) and list(tmp_path.glob("*.timing"))
    with pytest.raises(NotBuilt):
        opened(tmp_path, model, may_build=False)
    gpu.failures.clear()
    opened(tmp_path, model).close()
    assert gpu.calls["build"] == 2


def test_rtx_keeps_what_it_compiled(runtime, gpu, tmp_path, model):
    runtime("rtx")
    opened(tmp_path, model).close()
    assert gpu.calls["kernels kept"] == 0
    opened(tmp_path, model).close()
    assert gpu.calls["kernels kept"] == 1


def test_damaged_engine_is_built_again(gpu, tmp_path, model):
    opened(tmp_path, model).close()
    (file,) = tmp_path.glob("*.engine")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(NotBuilt):
        opened(tmp_path, model, may_build=False)
    for _ in range(2):
        opened(tmp_path, model).close()
        assert gpu.calls["build"] == 2
    file.unlink()
    file.mkdir()
    with pytest.raises(BackendError, match="cannot be written"):
        opened(tmp_path, model)


def test_engine_that_the_runtime_refuses_is_built_again(gpu, tmp_path, model):
    opened(tmp_path, model).close()
    gpu.failures["deserialize"] = 2
    opened(tmp_path, model).close()
    assert gpu.calls["build"] == 2


@pytest.mark.parametrize(
    ("what", "value"), [("driver", 13010), ("sm", (8, 6)), ("version", "11"), ("version", "rtx")]
)
def test_stale_engine_is_left_and_another_built(runtime, gpu, tmp_path, model, what, value):
    opened(tmp_path, model).close()
    if what == "version":
        runtime(value)
    else:
        setattr(gpu, what, value)
    opened(tmp_path, model).close()
    assert gpu.calls["build"] == len(list(tmp_path.glob("*.engine"))) == 2


def test_not_built(gpu, tmp_path, model):
    with pytest.raises(NotBuilt, match="perception model compile open-n --backend tensorrt"):
        opened(tmp_path, model, may_build=False)
    assert gpu.open["context"] == 0 and gpu.calls["build"] == 0


def test_progress_of_a_build(tmp_path, model):
    told = []
    opened(tmp_path, model, progress=lambda done, total: told.append(done / total)).close()
    assert told == [0.5, 0.625, 0.75, 0.875, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("fails", "text"),
    [
        ("build", r"cannot build .*open-n.s8.onnx: \[x.cpp::1\] no kernel fits"),
        ("start", "13.3.9 cannot start: CUDA initialization failure"),
        ("execute", "TensorRT 10.13.3.9 failed"),
        ("deserialize", "refuses the engine: Serialization assertion failed"),
    ],
)
def test_errors_name_what_is_wrong(gpu, tmp_path, model, fails, text):
    gpu.failures[fails] = 9
    with pytest.raises(BackendError, match=text):
        opened(tmp_path, model)
    assert gpu.open["context"] == 0


@pytest.mark.parametrize("fails", ["context", "weights"])
def test_an_engine_without_memory_to_run_in_is_not_built_again(gpu, tmp_path, model, fails):
    opened(tmp_path, model).close()
    gpu.failures[fails] = True
    with pytest.raises(BackendError, match="cannot run the engine: .* memory is full") as told:
        opened(tmp_path, model)
    assert not isinstance(told.value, NotBuilt)
    assert gpu.calls["build"] == 1 and gpu.open["context"] == 0


@pytest.mark.parametrize("device_fails", [True, False])
def test_a_refused_run_says_whether_the_device_itself_has_failed(
    runtime, gpu, tmp_path, model, device_fails
):
    """TensorRT tells no difference; every frame after it would fail the same way."""
    runtime("rtx")
    gpu.failures["capturable"] = True
    backend = opened(tmp_path, model)
    gpu.failures["execute"] = True
    if device_fails:
        gpu.failures["cuStreamSynchronize"] = Verdict.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(BackendError) as caught:
        backend.infer(np.zeros((model.input.height, model.input.width, 3), np.uint8))
    assert isinstance(caught.value, BackendLost) == device_fails


def test_failed_frame_is_told(gpu, tmp_path, model):
    backend = opened(tmp_path, model)
    gpu.failures["cuStreamSynchronize"] = Verdict.CUDA_ERROR_ILLEGAL_ADDRESS
    with pytest.raises(BackendLost, match="illegal address"):
        backend.infer(np.zeros((model.input.height, model.input.width, 3), np.uint8))
    backend.close()
    with pytest.raises(BackendError, match="no model is loaded"):
        backend.infer(np.zeros((model.input.height, model.input.width, 3), np.uint8))


def test_driver_older_than_the_wheel(runtime, gpu, tmp_path, model):
    gpu.driver = 12080
    runtime("rtx", cuda=13000)
    with pytest.raises(BackendError, match="TensorRT-RTX 1.7.1.116 is made for 13.0; install"):
        opened(tmp_path, model)


def test_model_without_a_file_for_it(tmp_path, model):
    text = "open-n-float/model.yaml names no s8 file, .* make an 8-bit model"
    with pytest.raises(ModelError, match=text):
        opened(tmp_path, load_model("open-n-float"))
    with pytest.raises(ModelError, match=r"names no s8 file, .* quantized by NNCF.*take another"):
        opened(tmp_path, model.model_copy(update={"s8": None}))
    other = model.s8.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(ModelError, match=r"open-n.s8.onnx has sha256 .* not the one"):
        opened(tmp_path, model.model_copy(update={"s8": other}))


def test_description_that_differs_from_the_network(tmp_path, model):
    wide = model.input.model_copy(update={"width": 448})
    with pytest.raises(BackendError, match=r"uint8 \(1, 256, 448, 3\)"):
        opened(tmp_path, model.model_copy(update={"input": wide}))
    outputs = model.outputs.model_copy(update={"box": ["box_8", "box_16", "box_33"]})
    with pytest.raises(BackendError, match="no output 'box_33'"):
        opened(tmp_path, model.model_copy(update={"outputs": outputs}))


KEY = EngineKey("m", "a" * 64, "TensorRT 10", "GPU", 87, "13000", "int8", "strongly typed")


@given(plan=st.binary(max_size=200), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_seen_wherever_it_is(tmp_path, plan, data):
    cache = EngineCache(str(tmp_path))
    cache.write(KEY, CachedEngine(plan, 3, 2))
    assert cache.read(KEY) == CachedEngine(plan, 3, 2)
    file = tmp_path / f"{KEY.name}.engine"
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    assert cache.read(KEY) is None


def test_damaged_kernels_are_compiled_again(tmp_path):
    cache = EngineCache(str(tmp_path))
    cache.keep(KEY, "kernels", b"kernels")
    assert cache.kept(KEY, "kernels") == b"kernels"
    file = tmp_path / f"{KEY.name}.kernels"
    for damaged in (b"", b"short", file.read_bytes()[:-1], file.read_bytes()[:-1] + b"t"):
        file.write_bytes(damaged)
        assert cache.kept(KEY, "kernels") == b""


def test_file_of_another_key_is_not_taken(tmp_path):
    cache = EngineCache(str(tmp_path))
    other = EngineKey(*[*vars(KEY).values()][:-1], "other flags")
    assert other.name != KEY.name
    cache.write(KEY, CachedEngine(b"plan", 0, 0))
    (tmp_path / f"{KEY.name}.engine").rename(tmp_path / f"{other.name}.engine")
    assert cache.read(other) is None


def start(folder):
    return subprocess.Popen(
        [sys.executable, fake_tensorrt.__file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def test_two_processes_that_start_at_once_build_once(tmp_path):
    processes = [start(tmp_path) for _ in range(2)]
    for process in processes:
        go(process)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert sorted((tmp_path / "log").read_text().split()) == ["build", "loaded", "loaded"]
    assert len(list(tmp_path.glob("*.engine"))) == 1


def test_process_killed_while_it_builds_leaves_nothing_in_the_way(tmp_path):
    (tmp_path / "stop here").touch()
    first = start(tmp_path)
    go(first)
    assert first.stdout.readline() == "building\n"
    (tmp_path / "stop here").unlink()
    second = start(tmp_path)
    go(second)
    first.kill()
    first.communicate()
    second.communicate()
    assert second.returncode == 0
    assert (tmp_path / "log").read_text().split() == ["build", "build", "loaded"]


def test_neither_runtime_is_installed(monkeypatch):
    monkeypatch.setattr(backend_module, "load_library", library.load_library)
    monkeypatch.setattr(library, "MODULES", {})
    text = "backend 'tensorrt' needs a runtime.*pip install tensorrt .or tensorrt-rtx; on a Jetson"
    with pytest.raises(BackendError, match=text):
        open_backend("tensorrt", BackendSettings())
