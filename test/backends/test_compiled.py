"""A compiled model enters the cache complete and approved, or not at all."""

from contextlib import contextmanager

import fake_gpu
import fake_tensorrt
import numpy as np
import pytest
from fake_gpu import FakeGpu

from perception_nodes.backends.compiled import CompiledRefused, compiled
from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.inference import BackendError
from perception_nodes.networks.model import load_model


@pytest.fixture(scope="module")
def model():
    return load_model("open-xs")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def names(cache):
    return sorted(path.name for path in cache.rglob("*"))


def test_a_node_finds_what_was_compiled(model, cache):
    with compiled(model, "openvino", 1, cache) as made:
        made.backend.infer(np.zeros((model.input.height, model.input.width, 3), np.uint8))
        assert not set(made.files) & {path.name for path in cache.iterdir()}
    assert made.files and names(cache) == made.files
    before = {name: (cache / name).stat().st_mtime_ns for name in made.files}
    open_backend("openvino", BackendSettings(1, str(cache))).load(model)
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == before


def test_a_refused_one_is_removed_with_what_was_there_before(model, cache):
    with compiled(model, "openvino", 1, cache):
        pass
    (cache / "another.blob").touch()
    with pytest.raises(CompiledRefused), compiled(model, "openvino", 1, cache):
        raise CompiledRefused("detects nothing")
    assert names(cache) == ["another.blob"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, BackendError])
def test_any_other_end_leaves_the_cache_as_it_was(model, cache, error):
    with compiled(model, "openvino", 1, cache) as made:
        pass
    with pytest.raises(error), compiled(model, "openvino", 1, cache):
        raise error
    assert names(cache) == made.files


def test_a_runtime_that_keeps_nothing_is_loaded_all_the_same(model, cache):
    with compiled(model, "onnxruntime", 1, cache) as made:
        assert made.info.backend == "onnxruntime"
        assert made.files == [] and made.load_s == made.compile_s
    assert names(cache) == []


def test_a_cache_that_cannot_be_written_is_named(model, cache):
    cache.write_text("no folder")
    with (
        pytest.raises(BackendError, match=f"{cache} cannot be written.*XDG_CACHE_HOME"),
        compiled(model, "onnxruntime", 1, cache),
    ):
        pass


def test_a_bar_is_shown_while_it_is_built(model, cache, monkeypatch):
    gpu = FakeGpu(memory_bytes=1 << 24)
    fake_gpu.install(monkeypatch, gpu)
    fake_tensorrt.install(monkeypatch, fake_tensorrt.make(gpu))
    told = []

    @contextmanager
    def bar(title):
        told.append(title)
        yield lambda done, total: told.append(done / total)

    with compiled(model, "tensorrt", 1, cache, bar) as made:
        assert told[:2] == ["building open-xs for tensorrt", 0.5] and told[-1] == 1.0
        assert gpu.calls["build"] == 1, "the second time it is loaded from where it lies"
        evaluated = open_backend("tensorrt", BackendSettings(1, str(made.folder), may_build=False))
        evaluated.load(model)
        evaluated.close()
    assert [name.rsplit(".")[-1] for name in names(cache)] == ["timing", "engine"]
    timing = next(cache.glob("*.timing"))
    before = timing.read_bytes()
    with pytest.raises(CompiledRefused), compiled(model, "tensorrt", 1, cache):
        raise CompiledRefused("it finds nothing")
    assert names(cache) == [timing.name], "measurements of the machine outlive a model"
    assert timing.read_bytes() == before + b"measured ", "a build begins with those of earlier ones"
    with compiled(model, "tensorrt", 1, cache):
        pass
    node = open_backend("tensorrt", BackendSettings(1, str(cache), may_build=False))
    node.load(model)
    node.close()
