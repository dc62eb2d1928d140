"""Two runtimes of which one computes something else: the network is refused."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from toy_detectors import cells, detector, written

from perception_nodes.backends.contract import open_model
from perception_nodes.networks import importer
from perception_nodes.networks.model import ModelError
from perception_nodes.networks.two_runtimes import check_runs


def toy(folder, scores):
    """A network of ten objects, whose scores are up to a value."""
    random = np.random.default_rng(3)  # the same whichever tests have run before
    middles = random.uniform(20, 60, (1, 10, 4))
    found = np.concatenate([middles, random.uniform(scores / 2, scores, (1, 10, 3))], axis=2)
    rows = np.zeros((1, cells(8, 16, 32), 7))
    rows[:, 5:15] = found
    output = {"output0": rows.transpose(0, 2, 1).astype(np.float32)}
    path = written(detector(output, grey=np.full(3, 1e-4, np.float32)), folder / "it.onnx")
    return importer.understand(path, importer.ImportOptions(classes=["car", "bus", "truck"]))


def differing(change):
    """Opens runtimes of which OpenVINO computes other boxes and scores."""

    @contextmanager
    def opened(name, model):
        with open_model(name, model) as backend:

            def infer(picture):
                heads = backend.infer(picture)
                boxes, classes = change(heads.boxes[0].copy(), heads.classes[0].copy())
                return SimpleNamespace(boxes=[boxes], classes=[classes])

            yield SimpleNamespace(infer=infer) if name == "openvino" else backend

    return opened


def differing_all(change):
    """Opens runtimes of which each computes other boxes and scores."""

    @contextmanager
    def opened(_name, model):
        with differing(change)("openvino", model) as backend:
            yield backend

    return opened


def one_wider(boxes, classes):
    boxes[0, 2, 7] += 8
    return boxes, classes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda boxes, classes: (boxes * 30, classes), "different boxes"),
        (one_wider, "different boxes"),
        (lambda boxes, classes: (boxes, classes * 0.8), "different class scores"),
        (lambda boxes, classes: (boxes, 0 * classes), "different class scores"),
        (lambda boxes, classes: (boxes, np.roll(classes, 1, axis=1)), "different"),
        (lambda boxes, classes: (boxes, classes + 2), "not probabilities from 0 to 1"),
    ],
)
@pytest.mark.parametrize("scores", [0.9, 0.005])
def test_a_runtime_that_computes_something_else_is_noticed(scores, change, said, tmp_path):
    imported = toy(tmp_path, scores)
    with pytest.raises(ModelError, match=said):
        importer.write_model(imported, tmp_path / "toy", differing(change))


@pytest.mark.parametrize("scores", [0.9, 0.01, 0.0])
def test_a_network_that_sees_no_picture_is_refused(scores, tmp_path):
    """As with a first convolution of zeros; a network with NMS inside may find nothing in noise."""
    rows = np.zeros((1, cells(8, 16, 32), 7), np.float32)
    rows[..., 4:] = scores
    blind = {"grid": rows.transpose(0, 2, 1).copy(), "rows": np.zeros((1, 9, 6), np.float32)}
    folder, options = tmp_path / "toy", importer.ImportOptions(classes=["car", "bus", "truck"])
    for name, output in blind.items():
        network = detector({"output0": output}, grey=np.zeros(3, np.float32))
        made = importer.understand(written(network, tmp_path / f"{name}.onnx"), options)
        assert len(made.exported.dead) == 1
        if name == "rows":
            importer.write_model(made, tmp_path / "rows", open_model)
        else:
            with pytest.raises(ModelError, match="answers the same to different pictures"):
                importer.write_model(made, folder, open_model)


def test_of_many_objects_that_are_as_good_any_may_be_seen(tmp_path):
    """As with untrained weights: each runtime takes other ones."""
    random = np.random.default_rng(6)
    boxes = np.tile(random.uniform(20, 60, (1, 300, 2)), 2)
    rows = np.concatenate([boxes, np.full((1, 300, 3), 0.05)], axis=2).astype(np.float32)
    network = detector({"output0": rows}, grey=np.full(3, 1e-4, np.float32))
    options = importer.ImportOptions(classes=["car", "bus", "truck"])
    made = importer.understand(written(network, tmp_path / "it.onnx"), options)
    turned = differing(lambda boxes, classes: (boxes[..., ::-1], classes[..., ::-1]))
    importer.write_model(made, tmp_path / "toy", turned)
    lower = differing(lambda boxes, classes: (boxes, classes * 0.5))
    with pytest.raises(ModelError, match="different class scores"):
        importer.write_model(made, tmp_path / "other", lower)


@pytest.mark.parametrize(("score", "differs"), [(0.04, False), (0.2, True)])
def test_of_8_bits_only_objects_of_some_score_are_compared(score, differs, tmp_path):
    """What is next to nothing may be among one runtime's best alone."""
    model = importer.write_model(toy(tmp_path, 0.9), tmp_path / "toy", open_model)
    eight = model.model_copy(update={"precision": "int8"})

    def elsewhere(boxes, classes):
        boxes[0, :, 5] += 30
        return boxes, classes

    def scaled(change):
        return lambda boxes, classes: change(boxes, classes * (score / 0.9))

    @contextmanager
    def opened(name, model):
        change = elsewhere if name == "openvino" else lambda *heads: heads
        with differing_all(scaled(change))(name, model) as backend:
            yield backend

    if not differs:
        check_runs(eight, opened)
        return
    with pytest.raises(ModelError, match="different boxes") as caught:
        check_runs(eight, opened)
    assert "inf" not in str(caught.value)


def test_cells_may_change_places(tmp_path):
    imported = toy(tmp_path, 0.9)
    turned = differing(lambda boxes, classes: (boxes[..., ::-1], classes[..., ::-1]))
    importer.write_model(imported, tmp_path / "toy", turned)
