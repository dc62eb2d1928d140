"""Several images in one call: the same bits as with single calls, and no copies."""

import numpy as np
import pytest

from perception_nodes.backends.contract import BACKENDS, BackendSettings, open_backend
from perception_nodes.core.inference import BackendError
from perception_nodes.faults import faulty_backend as faulty
from perception_nodes.networks.model import load_model

RUNTIMES = ("openvino", "onnxruntime")
CAMERAS = 4
SETTINGS = BackendSettings(threads=2, max_batch=CAMERAS)


@pytest.fixture(scope="module")
def model():
    return load_model("road-n")


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request, model):
    opened = open_backend(request.param, SETTINGS)
    opened.info = opened.load(model)
    yield opened
    opened.close()


def empty(model):
    return np.zeros((model.input.height, model.input.width, 3), np.uint8)


def copied(heads):
    return [tensor.copy() for tensor in (*heads.boxes, *heads.classes)]


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


class TestRuntimes:
    def test_says_how_many_it_takes(self, runtime):
        assert runtime.info.max_batch == CAMERAS

    @pytest.mark.parametrize("name", RUNTIMES)
    def test_takes_one_where_others_would_gain_nothing(self, name, model):
        for settings in (BackendSettings(threads=2), BackendSettings(threads=1, max_batch=CAMERAS)):
            backend = open_backend(name, settings)
            assert backend.load(model).max_batch == 1
            backend.close()

    @pytest.mark.parametrize("size", range(1, CAMERAS + 1))
    def test_each_image_gives_what_it_gives_alone(self, runtime, streets, size):
        alone = [copied(runtime.infer(image)) for image in streets]
        for start in range(0, len(streets) - size + 1, size):
            for found, expected in zip(
                runtime.infer_batch(streets[start : start + size]),
                alone[start : start + size],
                strict=True,
            ):
                same(copied(found), expected)

    def test_the_answers_of_one_call_lie_apart(self, runtime, streets):
        first, second = runtime.infer_batch(streets[:2])
        for a, b in zip(first.boxes, second.boxes, strict=True):
            assert not np.shares_memory(a, b)

    def test_the_images_are_read_where_they_lie(self, runtime, model):
        """The same addresses with other pixels: a cached copy would give the same answer twice."""
        images = [empty(model), empty(model)]
        before = [copied(heads) for heads in runtime.infer_batch(images)]
        images[1][60:120, 100:200] = 255
        after = [copied(heads) for heads in runtime.infer_batch(images)]
        same(after[0], before[0])
        assert any(not np.array_equal(a, b) for a, b in zip(after[1], before[1], strict=True))

    @pytest.mark.parametrize("bad", [0, 1])
    def test_one_that_is_refused_fails_the_call_and_no_other(self, runtime, model, streets, bad):
        expected = [copied(heads) for heads in runtime.infer_batch(streets[:2])]
        images = list(streets[:2])
        images[bad] = np.zeros((8, 8, 3), np.uint8)
        with pytest.raises(BackendError) as caught:
            runtime.infer_batch(images)
        assert "\n" not in str(caught.value)
        for found, kept in zip(runtime.infer_batch(streets[:2]), expected, strict=True):
            same(copied(found), kept)

    def test_more_than_it_was_loaded_for_are_refused(self, runtime, model):
        with pytest.raises(BackendError, match="5 images at once; it was loaded for 4"):
            runtime.infer_batch([empty(model)] * (CAMERAS + 1))

    @pytest.mark.parametrize("name", RUNTIMES)
    def test_infers_nothing_after_it_is_closed(self, name, model):
        backend = open_backend(name, SETTINGS)
        backend.load(model)
        backend.close()
        with pytest.raises(BackendError):
            backend.infer_batch([empty(model)] * 2)


class TestFaulty:
    @pytest.fixture
    def backend(self, model, tmp_path, monkeypatch):
        self.path = tmp_path / "orders.json"
        monkeypatch.setenv(faulty.VARIABLE, str(self.path))
        monkeypatch.setitem(BACKENDS, "faulty", faulty.__name__)
        self.order()
        opened = open_backend("faulty", SETTINGS)
        assert opened.load(model).max_batch == CAMERAS
        return opened

    def order(self, **orders):
        faulty.Orders(**orders).write(self.path)

    def test_several_images_are_one_call(self, backend, model):
        assert len(backend.infer_batch([empty(model)] * 3)) == 3

    def test_its_faults_are_those_of_the_call(self, backend, model):
        self.order(fault="exception", until_ns=1 << 62)
        with pytest.raises(BackendError, match="ordered to fail"):
            backend.infer_batch([empty(model)] * 2)
        self.order(fault="nan", until_ns=1 << 62)
        for heads in backend.infer_batch([empty(model)] * 2):
            assert all(np.isnan(tensor).all() for tensor in (*heads.boxes, *heads.classes))
