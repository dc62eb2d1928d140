"""Labels are checked before any long work; a labeller's boxes add to them and never repeat them."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")
pytest.importorskip("ultralytics", reason="needs the build tools: make compression")
from scenes import write_labelled

from model_compression import dataset
from model_compression.checkpoint import load_detector
from model_compression.config import Source, Training
from model_compression.errors import CompressionError
from model_compression.frames import letterboxed
from model_compression.train import Batches, Samples

CLASSES = ("person", "car", "bus")
PERSON, CAR, BUS = 0.0, 1.0, 2.0


def source(**given) -> Source:
    usual = {"name": "set", "images": "images/*.png", "classes": {0: "car"}, "license": "x"}
    return Source(**usual | given)


@pytest.mark.parametrize(
    "line", ["0 0.5 0.5 0.2", "0 0.5 1.5 0.2 0.2", "0 0.5 0.5 -0.1 0.2", "0.5 0.5 0.5 0.1 0.1",
             "0 nan 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "car 0.5 0.5 0.1 0.1",
             "nan 0.5 0.5 0.1 0.1", "inf 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1 0",
             "9" * 400 + " 0.5 0.5 0.1 0.1"],
)  # fmt: skip
def test_a_wrong_label_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "a.txt"
    path.write_text(f"0 0.5 0.5 0.1 0.1\n\n{line}\n")
    with pytest.raises(CompressionError, match=r"a\.txt:3: .* is no label"):
        dataset.read_rows(path)


def test_labels_in_another_encoding_are_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("0 0.5 0.5 0.1 0.1\n".encode("utf-16"))
    with pytest.raises(CompressionError, match=r"a\.txt:1: .* is no label"):
        dataset.read_rows(path)


def test_sets_are_looked_at_as_a_whole(tmp_path):
    with pytest.raises(CompressionError, match=r"no file matches images/\*\.png"):
        dataset.check_sources(tmp_path, [source()], print)
    write_labelled(tmp_path, "a.png", [])
    with pytest.raises(CompressionError, match="not one of 1 images has labels"):
        dataset.check_sources(tmp_path, [source()], print)
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.1 0.1\n")
    with pytest.raises(CompressionError, match="class 7 is neither"):
        dataset.check_sources(tmp_path, [source()], print)
    dataset.check_sources(tmp_path, [source(ignored={7})], print)


def test_an_object_that_is_labelled_twice_is_learned_once(tmp_path):
    write_labelled(tmp_path, "a.png", ["0 0.5 0.5 0.1 0.1"] * 3 + ["0 0.2 0.2 0.1 0.1"])
    said = []
    dataset.check_sources(tmp_path, [source()], said.append)
    assert said == ["set set: 2 label lines repeat another one and count once"]
    found = dataset.read_labels(tmp_path / "labels/a.txt", 100, 100)
    np.testing.assert_allclose(found, [[0, 45, 45, 55, 55], [0, 15, 15, 25, 25]], atol=1e-4)


@pytest.mark.parametrize("files", [("cam_a/1.png", "cam/a_1.png"), ("a.jpg", "a.png")])
def test_no_image_takes_the_place_of_another(tmp_path, files):
    for file in files:
        (tmp_path / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / file).touch()
    sources = [source(images="images/**/*.*", classes=None)]
    with pytest.raises(CompressionError, match="would both be stored as set_") as refused:
        dataset.check_sources(tmp_path, sources, print)
    assert all(file in str(refused.value) for file in files)
    numbered = enumerate(files)
    apart = [source(name=f"set{i}", images=f"images/{f}", classes=None) for i, f in numbered]
    dataset.check_sources(tmp_path, apart, print)


def test_a_labeller_adds_what_is_not_there():
    labels = np.array([[CAR, 0, 0, 100, 100]], np.float32)
    same = [BUS, 2, 2, 100, 100]
    rider = [PERSON, 0, 0, 40, 100]
    far = [CAR, 300, 0, 400, 100]
    merged = dataset.merge(labels, np.array([same, rider, far], np.float32), CLASSES)
    assert merged.tolist() == [[CAR, 0, 0, 100, 100], rider, far]


class Interrupted(BaseException):
    """In place of a signal."""


def test_a_build_that_goes_on_makes_again_what_has_changed(tmp_path, monkeypatch):
    for shade, name in enumerate("abcde"):
        image = np.full((48, 64, 3), shade, np.uint8)
        write_labelled(tmp_path, f"{name}.png", ["0 0.5 0.5 0.6 0.6"], image)
    config = SimpleNamespace(
        data=tmp_path, sources=[source()], labeller=None, classes=CLASSES, size=(64, 32)
    )
    out, written, real = tmp_path / "out", list[str](), np.savetxt

    def save(path, rows, fmt):
        if path.stem == "set_e":
            raise Interrupted
        written.append(path.stem)
        real(path, rows, fmt)

    with monkeypatch.context() as patched:
        patched.setattr(np, "savetxt", save)
        with pytest.raises(Interrupted):
            dataset.build(config, out, lambda done, total: None)
    assert len(list((out / "images").iterdir())) == 5  # the last one has no labels
    (tmp_path / "labels/a.txt").write_text("")
    (tmp_path / "labels/b.txt").unlink()
    cv2.imwrite(str(tmp_path / "images/c.png"), np.full((48, 64, 3), 200, np.uint8))
    for gone in ("images/e.png", "images/d.png"):
        (tmp_path / gone).unlink()
    counts = {"images": 3, "boxes": 1, "car": 1}
    assert dataset.build(config, out, lambda done, total: None) == {"set": counts}
    samples = Samples(out)
    assert [path.stem for path in samples.images] == ["set_a", "set_b", "set_c"]
    assert [len(labels) for labels in samples.labels] == [0, 0, 1]
    assert samples[2][0].mean() == 200
    assert len(list((out / "labels").iterdir())) == 3

    monkeypatch.setattr(np, "savetxt", save)
    written.clear()
    dataset.build(config, out, lambda done, total: None)
    assert not written  # nothing has changed


def test_batches_depend_on_the_step_alone(tmp_path):
    """However many threads make them, and wherever a run goes on."""
    rng = np.random.default_rng(0)
    for index in range(6):
        image = rng.integers(0, 255, (48, 64, 3))
        write_labelled(tmp_path, f"{index}.jpg", [f"{index} 0.5 0.5 0.6 0.6"], image)
    batches = Batches(Samples(tmp_path), Training(epochs=3, batch=2), (64, 32), seed=1)
    alone = list(batches.following(0))
    assert [step for step, _ in alone] == list(range(9))
    together = list(batches.following(4, workers=3))
    for (step, (images, labels)), (other, (same, taught)) in zip(alone[4:], together, strict=True):
        assert step == other
        torch.testing.assert_close((images, *labels), (same, *taught), rtol=0, atol=0)
    assert not alone[0][1][0].equal(alone[3][1][0])  # another epoch, another order


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(CompressionError, match=r"cut\.jpg is no image .* replace or remove it"):
        list(letterboxed([tmp_path / "cut.jpg"], (64, 32)))


def test_a_labeller_leaves_the_training_all_its_threads(checkpoint):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(9)
        dataset.teach(load_detector(checkpoint), np.zeros((64, 64, 3), np.uint8), 64, 0.4, CLASSES)
        assert torch.get_num_threads() == 9
    finally:
        torch.set_num_threads(before)
