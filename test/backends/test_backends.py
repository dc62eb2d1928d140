"""Every backend keeps the contract, and the runtimes agree."""

import hashlib
import os
import shutil
import sys
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import yaml
from refused import refused

from perception_nodes.backends.contract import BACKENDS, BackendSettings, open_backend, open_model
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.geometry import pairwise_iou
from perception_nodes.core.inference import BackendError
from perception_nodes.networks.model import load_model

RUNTIMES = ("openvino", "onnxruntime")
OPEN_TO_ALL = (*RUNTIMES, "null")
"""The golden backend only takes models of the symmetric scheme, and has tests of its own."""
SETTINGS = BackendSettings(threads=1)
BATCHES = BackendSettings(threads=2, max_batch=4)


@pytest.fixture(scope="module", params=OPEN_TO_ALL)
def backend(request, model):
    opened = open_backend(request.param, SETTINGS)
    opened.info = opened.load(model)
    yield opened
    opened.close()


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request, model):
    with open_model(request.param, model, SETTINGS) as opened:
        yield opened


def empty(model):
    return np.zeros((model.input.height, model.input.width, 3), np.uint8)


def copied(heads):
    return [tensor.copy() for tensor in (*heads.boxes, *heads.classes)]


def answer(model, settings):
    """What OpenVINO computes of noise."""
    shape = (model.input.height, model.input.width, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with open_model("openvino", model, settings) as backend:
        return backend.infer(noise).classes[0].copy()


def refused_load(name, model):
    return refused(BackendError, open_backend(name, SETTINGS).load, model)


def repackaged(model, folder, content=None, **outputs):
    """A copy of the model with other content, or another description of its outputs."""
    folder.mkdir()
    content = model.path.read_bytes() if content is None else content
    (folder / model.file).write_bytes(content)
    values = yaml.safe_load((model.folder / "model.yaml").read_text(encoding="utf-8"))
    values["sha256"] = hashlib.sha256(content).hexdigest()
    values["outputs"].update(outputs)
    (folder / "model.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return load_model(str(folder))


class TestContract:
    def test_says_what_was_loaded(self, backend):
        info = backend.info
        assert info.backend in BACKENDS
        assert info.runtime
        assert info.device
        assert info.threads >= 1

    def test_answers_with_the_heads_that_the_model_describes(self, backend, model):
        heads = backend.infer(empty(model))
        for tensors, channels in [
            (heads.boxes, 4 * model.outputs.reg_max),
            (heads.classes, len(model.classes)),
        ]:
            for tensor, stride in zip(tensors, model.outputs.strides, strict=True):
                size = (model.input.height // stride, model.input.width // stride)
                assert tensor.shape == (1, channels, *size)
                assert tensor.dtype == np.float32
                assert np.isfinite(tensor).all()

    def test_the_same_image_gives_the_same_answer(self, backend, model):
        image = np.random.default_rng(0).integers(0, 256, empty(model).shape).astype(np.uint8)
        first = copied(backend.infer(image))
        backend.infer(empty(model))
        np.testing.assert_equal(copied(backend.infer(image)), first)

    def test_the_image_is_left_as_it_was(self, backend, model):
        image = np.random.default_rng(0).integers(0, 256, empty(model).shape).astype(np.uint8)
        before = image.copy()
        backend.infer(image)
        np.testing.assert_array_equal(image, before)

    @pytest.mark.parametrize("name", OPEN_TO_ALL)
    def test_infers_nothing_before_it_is_loaded_and_after_it_is_closed(self, name, model):
        backend = open_backend(name, SETTINGS)
        with pytest.raises(BackendError, match="no model is loaded"):
            backend.infer(empty(model))
        backend.load(model)
        backend.close()
        with pytest.raises(BackendError, match="no model is loaded"):
            backend.infer(empty(model))
        backend.close()


class TestInPlace:
    def test_the_buffer_of_the_call_is_what_is_read(self, runtime, model):
        """The same address with other pixels: a cached copy would give the same answer twice."""
        image = empty(model)
        before = copied(runtime.infer(image))
        image[60:120, 100:200] = 255
        after = copied(runtime.infer(image))
        assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    def test_what_cannot_be_read_in_place_is_refused(self, runtime, model):
        image = np.zeros((model.input.height, 2 * model.input.width, 3), np.uint8)
        with pytest.raises(BackendError):
            runtime.infer(image[:, ::2])

    def test_an_image_of_another_size_is_refused(self, runtime, model):
        refused(BackendError, runtime.infer, np.zeros((8, 8, 3), np.uint8))
        runtime.infer(empty(model))

    def test_outputs_are_the_same_memory_each_time(self, runtime, model):
        first, second = runtime.infer(empty(model)), runtime.infer(empty(model))
        for a, b in zip(
            (*first.boxes, *first.classes), (*second.boxes, *second.classes), strict=True
        ):
            assert np.shares_memory(a, b)


class TestAgreement:
    @staticmethod
    def found(name, model, images, score_threshold):
        decoder = model.decoder(DecodeSettings(score_threshold, 0.6))
        with open_model(name, model, SETTINGS) as backend:
            heads = map(backend.infer, images)
            return [decoder.decode(one.boxes, one.classes) for one in heads]

    def test_the_runtimes_find_the_same_objects(self, model, streets):
        """INT8 rounds at other places in each; what one is sure of, the other must see."""
        sure = {name: self.found(name, model, streets, 0.5) for name in RUNTIMES}
        seen = {name: self.found(name, model, streets, 0.35) for name in RUNTIMES}
        assert sum(len(found) for found in sure["openvino"]) > 0
        for ours, others in [RUNTIMES, RUNTIMES[::-1]]:
            for found, near in zip(sure[ours], seen[others], strict=True):
                for box, score, label in zip(found.boxes, found.scores, found.classes, strict=True):
                    same = (near.classes == label) & (np.abs(near.scores - score) < 0.15)
                    same &= pairwise_iou(box[None], near.boxes)[0] > 0.6
                    assert same.any(), f"{ours} alone: {model.classes[label]} {score:.2f} at {box}"

    def test_null_finds_nothing(self, model, streets):
        assert sum(len(found) for found in self.found("null", model, streets, 0.01)) == 0


class TestErrors:
    @pytest.mark.parametrize("name", RUNTIMES)
    def test_a_missing_runtime_says_what_to_install(self, name, monkeypatch):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"perception_nodes.backends.{name}", raising=False)
        with pytest.raises(BackendError, match=f"pip install {name}"):
            open_backend(name, SETTINGS)

    @pytest.mark.parametrize("name", RUNTIMES)
    @pytest.mark.parametrize("share", [0, 0.5])
    def test_a_file_that_is_no_network_is_refused(self, name, share, model, tmp_path):
        content = model.path.read_bytes()[: round(share * model.path.stat().st_size)]
        broken = repackaged(model, tmp_path / "broken", content)
        assert str(broken.path) in refused_load(name, broken)

    @pytest.mark.parametrize("name", RUNTIMES)
    def test_an_output_that_is_not_there_is_named(self, name, model, tmp_path):
        other = repackaged(model, tmp_path / "other", box=["box_8", "box_16", "nonesuch"])
        assert "nonesuch" in refused_load(name, other)

    @pytest.mark.parametrize("name", RUNTIMES)
    def test_an_output_of_another_shape_is_named(self, name, model, tmp_path):
        text = refused_load(name, repackaged(model, tmp_path / "other", reg_max=8))
        assert "'box_8'" in text
        assert "(1, 32, 32, 52)" in text

    @pytest.mark.parametrize("name", ["openvino", "litert"])
    def test_boxes_stay_in_the_order_in_which_the_processor_has_them(self, name, model):
        if name == "litert":
            pytest.importorskip("ai_edge_litert")
        with open_model(name, model, SETTINGS) as backend:
            heads = backend.infer(empty(model))
            assert all(box.transpose(0, 2, 3, 1).flags.c_contiguous for box in heads.boxes)
            assert all(one.flags.c_contiguous for one in heads.classes)

    @pytest.mark.parametrize("damage", ["cut off", "a flipped bit"])
    def test_a_damaged_cache_is_made_anew(self, model, tmp_path, damage):
        settings = BackendSettings(threads=1, cache_dir=str(tmp_path))
        whole = answer(model, settings)
        (file,) = tmp_path.iterdir()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x40
        file.write_bytes(content[:100] if damage == "cut off" else content)
        np.testing.assert_array_equal(answer(model, settings), whole)

    def test_new_weights_in_a_file_of_the_same_name_size_and_time_are_used(self, model, tmp_path):
        settings = BackendSettings(threads=1, cache_dir=str(tmp_path / "cache"))
        folder = tmp_path / "other"
        shutil.copytree(model.folder, folder)
        before = answer(load_model(str(folder)), settings)
        file = folder / model.file
        times = file.stat()
        network = onnx.load(file)
        weights = next(one for one in network.graph.initializer if len(one.dims) == 4)
        weights.raw_data = bytes(len(weights.raw_data))
        onnx.save(network, file)
        assert file.stat().st_size == times.st_size
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        description = yaml.safe_load((folder / "model.yaml").read_text())
        description["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        (folder / "model.yaml").write_text(yaml.safe_dump(description))
        assert not np.array_equal(answer(load_model(str(folder)), settings), before)


@pytest.fixture(scope="module", params=RUNTIMES)
def batching(request, model):
    if request.param == "openvino" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("OpenVINO takes one thread on one processor, and so no batches")
    with open_model(request.param, model, BATCHES) as opened:
        yield opened


class TestBatches:
    """Several images in one call: the same bits as with single calls."""

    @pytest.mark.parametrize("name", RUNTIMES)
    def test_takes_one_where_others_would_gain_nothing(self, name, model):
        for settings in (BackendSettings(threads=2), BackendSettings(threads=1, max_batch=4)):
            backend = open_backend(name, settings)
            assert backend.load(model).max_batch == 1
            backend.close()

    @pytest.mark.parametrize("size", [2, 4])
    def test_each_image_gives_what_it_gives_alone(self, batching, streets, size):
        alone = [copied(batching.infer(image)) for image in streets]
        for start in range(0, len(streets) - size + 1, size):
            together = batching.infer_batch(streets[start : start + size])
            np.testing.assert_equal([*map(copied, together)], alone[start : start + size])

    @pytest.mark.parametrize("bad", [0, 1])
    def test_one_that_is_refused_fails_the_call_and_no_other(self, batching, model, bad):
        images = [empty(model), empty(model)]
        expected = [copied(heads) for heads in batching.infer_batch(images)]
        one_is_bad = [*images]
        one_is_bad[bad] = np.zeros((8, 8, 3), np.uint8)
        refused(BackendError, batching.infer_batch, one_is_bad)
        np.testing.assert_equal([*map(copied, batching.infer_batch(images))], expected)

    def test_more_than_it_was_loaded_for_are_refused(self, batching, model):
        with pytest.raises(BackendError, match="5 images at once; it was loaded for 4"):
            batching.infer_batch([empty(model)] * 5)

    @pytest.mark.parametrize("name", RUNTIMES)
    def test_infers_nothing_after_it_is_closed(self, name, model):
        with open_model(name, model, BATCHES) as backend:
            pass
        with pytest.raises(BackendError):
            backend.infer_batch([empty(model)] * 2)


def test_a_runtime_that_fails_without_a_word_is_told(model, monkeypatch):
    fail = Mock(side_effect=RuntimeError)
    monkeypatch.setattr("perception_nodes.backends.openvino.compile_model", fail)
    with pytest.raises(BackendError, match=r"cannot load .*open-n.*: RuntimeError$"):
        open_backend("openvino", SETTINGS).load(model)
