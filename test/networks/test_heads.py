"""Each head against a plain decoder of the original network's own outputs."""

import math
from dataclasses import replace

import numpy as np
import onnxruntime
import openvino
import pytest
from toy_detectors import GREY, HEIGHT, SIZE, WIDTH, cells, detector, written

from perception_nodes.backends.contract import BackendSettings, open_backend, open_model
from perception_nodes.networks import importer
from perception_nodes.networks.importer import ImportOptions, understand, write_model
from perception_nodes.networks.model import ModelError, load_model
from perception_nodes.networks.onnx_file import read_onnx
from perception_nodes.networks.onnx_rewrite import rewrite_onnx

STRIDES = (8, 16, 32)
CLASSES = 3
NAMES = ["car", "bus", "truck"]
RANDOM = np.random.default_rng(1)


def random(*shape, low=0.0, high=0.8):
    return RANDOM.uniform(low, high, shape).astype(np.float32)


def middles(*shape):
    """Boxes in the input, by centre and size along the last axis."""
    return np.concatenate([random(*shape, 2, high=60), random(*shape, 2, low=4, high=40)], axis=-1)


def of_middle(x, y, width, height):
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def places(*strides):
    """Column, row and stride of each cell, in the order of exporters."""
    return [
        (column, row, stride)
        for stride in strides
        for row in range(-(-HEIGHT // stride))
        for column in range(-(-WIDTH // stride))
    ]


def plain_grid(found):
    (grid,) = found.values()
    columns = grid[0].T.tolist()
    return [(of_middle(*column[:4]), column[4:]) for column in columns]


def plain_objects(found):
    (rows,) = found.values()
    return [
        (row[:4], [row[4] * (int(row[5]) == label) for label in range(CLASSES)])
        for row in rows[0].tolist()
    ]


def plain_scored(found):
    (rows,) = found.values()
    return [
        (of_middle(*row[:4]), [row[4] * score for score in row[5:]]) for row in rows[0].tolist()
    ]


def plain_yolox(found):
    (rows,) = found.values()
    objects = []
    for row, (column, line, stride) in zip(rows[0].tolist(), places(*STRIDES), strict=True):
        centre = (row[0] + column) * stride, (row[1] + line) * stride
        size = math.exp(row[2]) * stride, math.exp(row[3]) * stride
        objects.append((of_middle(*centre, *size), [row[4] * score for score in row[5:]]))
    return objects


def plain_nanodet(found, logits=False):
    (rows,) = found.values()
    objects = []
    for row, (column, line, stride) in zip(rows[0].tolist(), places(*STRIDES, 64), strict=True):
        reach = []
        for side in range(4):
            bins = row[CLASSES + 8 * side :][:8]
            weights = [math.exp(value) for value in bins]
            reach.append(stride * sum(n * w for n, w in enumerate(weights)) / sum(weights))
        x, y, scores = column * stride, line * stride, row[:CLASSES]
        if logits:
            scores = [1 / (1 + math.exp(-score)) for score in scores]
        objects.append(([x - reach[0], y - reach[1], x + reach[2], y + reach[3]], scores))
    return objects


def plain_ncnn(found):
    (columns,) = found.values()
    return plain_nanodet({"rows": columns.transpose(0, 2, 1)}, logits=True)


def plain_detr(found):
    rows = zip(*(found[name][0].tolist() for name in ("boxes", "scores", "labels")), strict=True)
    return [
        (box, [score * (label == index) for index in range(CLASSES)]) for box, score, label in rows
    ]


def in_pixels(shares):
    x, y, width, height = shares
    return of_middle(x * WIDTH, y * HEIGHT, width * WIDTH, height * HEIGHT)


def plain_queries(found):
    boxes, logits = (found[name][0].tolist() for name in ("pred_boxes", "logits"))
    return [
        (in_pixels(box), [1 / (1 + math.exp(-value)) for value in row])
        for box, row in zip(boxes, logits, strict=True)
    ]


def plain_ultralytics_detr(found):
    (rows,) = found.values()
    scores = rows[..., 4:]
    logits = np.log(scores / (1 - scores))
    return plain_queries({"pred_boxes": rows[..., :4], "logits": logits})


def plain_detr_rows(found):
    (rows,) = found.values()
    return [
        (in_pixels(row[:4]), [row[4] * (int(row[5]) == label) for label in range(CLASSES)])
        for row in rows[0].tolist()
    ]


def anchors_and_maps():
    maps = {f"map_{s}": random(1, 3, HEIGHT // s, WIDTH // s, 5 + CLASSES) for s in STRIDES}
    return {**scored(3 * cells(*STRIDES)), **maps}


def plain_anchors(found):
    return plain_scored({"output": found["output"]})


def grid():
    rows = np.concatenate([middles(1, cells(*STRIDES)), random(1, cells(*STRIDES), CLASSES)], -1)
    return {"output0": rows.transpose(0, 2, 1).copy()}


def objects():
    corners = np.sort(random(1, 9, 2, 2, high=60), axis=2).reshape(1, 9, 4)
    labels = RANDOM.integers(0, CLASSES, (1, 9, 1)).astype(np.float32)
    return {"output0": np.concatenate([corners, random(1, 9, 1), labels], -1)}


def scored(count):
    return {"output": np.concatenate([middles(1, count), random(1, count, 1 + CLASSES)], axis=-1)}


def yolox_raw():
    count = cells(*STRIDES)
    boxes = random(1, count, 4, low=-1, high=1)
    return {"output": np.concatenate([boxes, random(1, count, 1 + CLASSES)], axis=-1)}


def nanodet():
    return {"output": random(1, cells(*STRIDES, 64), CLASSES + 32)}


def ncnn():
    return {"out0": random(1, CLASSES + 32, cells(*STRIDES, 64), low=-2, high=2)}


def detr():
    return {
        "labels": RANDOM.integers(0, CLASSES, (1, 7)),
        "boxes": np.sort(random(1, 7, 2, 2, high=60), axis=2).reshape(1, 7, 4),
        "scores": random(1, 7),
    }


def queries():
    boxes = random(1, 7, 4)
    boxes[0, 0, 2] = 1.2
    return {"logits": random(1, 7, CLASSES, low=-3, high=3), "pred_boxes": boxes}


RGB = {"scale": 255.0, "swap": True}
BGR = {"scale": 1.0, "swap": False}
MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
HEADS = {
    "ultralytics": (grid, plain_grid, {}, RGB),
    "ultralytics-nms": (objects, plain_objects, {}, RGB),
    "yolov5": (lambda: scored(3 * cells(*STRIDES)), plain_scored, {}, RGB),
    "yolov5 with its maps": (anchors_and_maps, plain_anchors, {}, RGB),
    "yolov6": (lambda: scored(cells(*STRIDES)), plain_scored, {}, RGB),
    "yolox": (
        lambda: scored(cells(*STRIDES)),
        plain_scored,
        {"focus": True, "operator": "Exp", "grey": GREY / 255},
        BGR,
    ),
    "yolox-raw": (yolox_raw, plain_yolox, {"focus": True, "grey": GREY / 255}, BGR),
    "nanodet-plus": (nanodet, plain_nanodet, {"operator": "Sigmoid"}, None),
    "nanodet-plus of ncnn": (ncnn, plain_ncnn, {}, None),
    "detr": (detr, plain_detr, {}, RGB),
    "detr-queries": (queries, plain_queries, {}, RGB),
    "ultralytics-rtdetr-rows": (
        lambda: {"output0": np.concatenate([random(1, 9, 5), objects()["output0"][..., 5:]], -1)},
        plain_detr_rows,
        {},
        RGB,
    ),
    "ultralytics-rtdetr": (
        lambda: {"output0": np.concatenate([random(1, 7, 4), random(1, 7, CLASSES)], -1)},
        plain_ultralytics_detr,
        {},
        RGB,
    ),
}


@pytest.mark.parametrize("case", HEADS)
@pytest.mark.parametrize("kind", ["onnxruntime", "openvino", "openvino's files"])
def test_boxes_and_scores_are_those_of_the_original(case, kind, tmp_path):
    make, plain, extra, pixels = HEADS[case]
    original = detector(make(), **extra)
    path = written(original, tmp_path / "original.onnx")
    asked = "yolov6" if case == "yolov6" else ""  # which looks like a YOLOX
    given, backend = path, kind.partition("'")[0]
    if "files" in kind:
        given = path.with_suffix(".xml")
        openvino.save_model(openvino.Core().read_model(path), given, compress_to_fp16=False)
    imported = understand(given, ImportOptions(classes=NAMES, head=asked))
    assert imported.head.name == case.split(" ")[0]
    write_model(imported, tmp_path / "models/toy", open_model)

    image = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[..., 0] //= 3  # channels in the wrong order would make a difference
    if pixels is None:
        seen = (image - np.array(MEAN)) / STD
    else:
        seen = (image[..., ::-1] if pixels["swap"] else image) / pixels["scale"]
    session = onnxruntime.InferenceSession(str(path))
    feed = {"images": seen.transpose(2, 0, 1)[None].astype(np.float32)}
    names = [output.name for output in session.get_outputs()]
    wanted = plain(dict(zip(names, session.run(names, feed), strict=True)))

    model = load_model(str(tmp_path / "models/toy"))
    runtime = open_backend(backend, BackendSettings())
    runtime.load(model)
    heads = runtime.infer(image)
    boxes, scores = heads.boxes[0][0].T, heads.classes[0][0].T
    np.testing.assert_allclose(boxes, [box for box, _ in wanted], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(scores, [row for _, row in wanted], rtol=1e-4, atol=1e-4)


def boxes_and_scores(count, largest, low=0.0, high=0.8):
    scores = random(1, count, CLASSES, low=low, high=high)
    return {"boxes": random(1, count, 4, high=largest), "scores": scores}


def of_nothing():
    found = queries()
    found["logits"][..., -1] = 8
    return found


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param(boxes_and_scores(7, 60), id="YOLO-NAS: pixels and probabilities"),
        pytest.param(boxes_and_scores(7, 0.8), id="SSD: shares and probabilities"),
        pytest.param(boxes_and_scores(3000, 0.8, low=-3, high=3), id="cells"),
        pytest.param(of_nothing(), id="DETR: a class for no object"),
    ],
)
def test_boxes_and_scores_of_another_kind_are_refused(outputs, tmp_path):
    said = refusal(detector(outputs), tmp_path, classes=NAMES)
    assert "no head of a detector that is known here" in said


@pytest.mark.parametrize("make", [grid, detr])
def test_only_some_classes_are_kept_in_the_order_given(make, tmp_path):
    path = written(detector(make()), tmp_path / "it.onnx")
    image = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    found = []
    for number, keep in enumerate((None, ["truck", "car"])):
        model = write_model(
            understand(path, ImportOptions(classes=NAMES, keep=keep)),
            tmp_path / "m" / str(number),
            open_model,
        )
        runtime = open_backend("openvino", BackendSettings())
        runtime.load(model)
        found.append(runtime.infer(image).classes[0].copy())
    assert model.classes == ["truck", "car"]
    np.testing.assert_array_equal(found[1], found[0][:, [2, 0]])
    with pytest.raises(ModelError, match="--keep names van; the classes of"):
        understand(path, ImportOptions(classes=NAMES, keep=["van"]))


def understood(network, folder, **options):
    return understand(written(network, folder / "it.onnx"), ImportOptions(**options))


def refusal(network, folder, **options):
    with pytest.raises(ModelError) as caught:
        understood(network, folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_may_be_two_heads_is_asked_for(tmp_path):
    said = refusal(detector(scored(cells(*STRIDES))), tmp_path, classes=NAMES)
    assert "which may be" in said and "yolov6" in said and "--head" in said


@pytest.mark.parametrize("strides", [(*STRIDES, 64), (4, *STRIDES), (16, 32)])
def test_the_author_in_the_metadata_decides(strides, tmp_path):
    rows = np.concatenate([middles(1, cells(*strides)), random(1, cells(*strides), 40)], -1)
    outputs = {"output0": rows.transpose(0, 2, 1).copy()}
    facts = {"author": "Ultralytics", "names": str([f"class {n}" for n in range(40)])}
    said_by_author = detector(outputs, facts=facts)
    assert understood(said_by_author, tmp_path).head.name == "ultralytics"
    anyone = detector(outputs, facts={"task": "detect"})
    assert "which may be" in refusal(anyone, tmp_path)
    named = understood(anyone, tmp_path, classes=[str(n) for n in range(40)])
    assert named.head.name == "ultralytics"


def rows_of_six(numbered, largest):
    boxes, last = random(1, 9, 5, low=0.1, high=0.9), random(1, 9, 1, low=0.1, high=0.9)
    boxes[..., :4] *= largest
    return {"output0": np.concatenate([boxes, last.round() if numbered else last], axis=-1)}


@pytest.mark.parametrize("facts", [{}, {"author": "Ultralytics", "description": "best model"}])
@pytest.mark.parametrize(
    ("numbered", "largest", "classes", "head"),
    [
        (True, 60, 3, "ultralytics-nms"),
        (True, 60, 2, "ultralytics-nms"),
        (True, 0, 2, "ultralytics-nms"),  # NMS inside has left nothing
        (True, 1, 3, "ultralytics-rtdetr-rows"),
        (False, 1, 2, "ultralytics-rtdetr"),
    ],
)
def test_rows_of_six_columns_are_told_apart_by_what_is_in_them(
    facts, numbered, largest, classes, head, tmp_path
):
    outputs = rows_of_six(numbered, largest)
    if not largest:
        outputs["output0"] *= 0
    network = detector(outputs, facts=facts)
    assert understood(network, tmp_path, classes=NAMES[:classes]).head.name == head


def test_a_head_that_does_not_fit_is_refused_with_those_that_do(tmp_path):
    said = refusal(detector(grid()), tmp_path, classes=NAMES, head="yolox")
    assert "not the head yolox" in said and "ultralytics" in said
    assert "unknown" in refusal(detector(grid()), tmp_path, head="grid")


def test_an_unknown_head_is_told_with_the_known_ones(tmp_path):
    maps = {"masks": random(1, 8, 8, 12)}
    assert "masks [1, 8, 8, 12] at 96x64, which is no head" in refusal(detector(maps), tmp_path)


def test_classes_must_be_named_and_as_many_as_there_are(tmp_path):
    assert "does not name its 3 classes; give --classes" in refusal(detector(grid()), tmp_path)
    said = refusal(detector(grid()), tmp_path, classes=NAMES[:2])
    assert "has 3 classes by its outputs, --classes gives 2" in said
    facts = {"names": "{0: 'car', 1: 'bus', 2: 'car'}"}
    assert "has the class 'car' twice" in refusal(detector(grid(), facts=facts), tmp_path)
    facts = {"names": "['car', 'bus', ' ']"}
    assert "has a class without a name" in refusal(detector(grid(), facts=facts), tmp_path)


@pytest.mark.parametrize("head", ["ultralytics-nms", "detr"])
@pytest.mark.parametrize("given", [NAMES[:2], [*NAMES, "van"]])
def test_a_head_of_numbers_has_as_many_classes_as_its_metadata_names(head, given, tmp_path):
    original = detector(HEADS[head][0](), facts={"names": str(NAMES)})
    said = refusal(original, tmp_path, classes=given)
    assert f"has 3 classes by its metadata, --classes gives {len(given)}" in said


@pytest.mark.parametrize(
    "names", ['{"2": "truck", "0": "car", "1": "bus"}', '["car", "bus", "truck"]']
)
def test_names_in_json_are_read(names, tmp_path):
    assert understood(detector(grid(), facts={"names": names}), tmp_path).classes == NAMES


@pytest.mark.parametrize("names", ["car bus truck", "{1: 'a', 2: 'b'}", "[]"])
def test_names_that_are_not_understood_are_not_taken_for_coco(names, tmp_path):
    network = detector(objects(), facts={"names": names})
    said = refusal(network, tmp_path)
    assert names in said and "in a form that is not known" in said and "--classes" in said
    assert understood(network, tmp_path, classes=NAMES).classes == NAMES


def test_suppression_inside_is_told_with_its_threshold(tmp_path, monkeypatch):
    path = written(detector(objects()), tmp_path / "it.onnx")
    assert not any("score_threshold" in note for note in understand(path, ImportOptions()).notes)
    source = replace(read_onnx(path, None), operators=frozenset({"NonMaxSuppression"}))
    monkeypatch.setitem(importer.FORMATS, ".onnx", (lambda *_: source, rewrite_onnx))
    assert any("score_threshold" in note for note in understand(path, ImportOptions()).notes)


@pytest.mark.parametrize("head", ["ultralytics-nms", "detr"])
@pytest.mark.parametrize(("score", "absurd"), [(0.3, True), (0, False)])
def test_an_object_whose_class_has_no_name_does_not_vanish(
    head, score, absurd, tmp_path, monkeypatch
):
    """One that no test picture has shown; of rows that are padding the number says nothing."""
    outputs = HEADS[head][0]()
    rows = outputs["labels" if head == "detr" else "output0"]
    labels = rows if head == "detr" else rows[..., 5]
    scores = outputs["scores"] if head == "detr" else rows[..., 4]
    labels[:], labels[0, 4], scores[0, 4] = 0, 2, score
    monkeypatch.setattr(importer, "_check_numbers", lambda *_: None)
    options = {"classes": NAMES[:2], "keep": NAMES[:1], "head": head}
    imported = understood(detector(outputs), tmp_path, **options)
    if absurd:
        with pytest.raises(ModelError, match="whose class the model does not name"):
            write_model(imported, tmp_path / "toy", open_model)
    else:
        write_model(imported, tmp_path / "toy", open_model)


@pytest.mark.parametrize("head", ["ultralytics-nms", "detr"])
@pytest.mark.parametrize("ending", [".onnx", ".xml"])
def test_a_class_without_a_name_is_refused(head, ending, tmp_path):
    outputs = HEADS[head][0]()
    numbers = outputs["labels"] if head == "detr" else outputs["output0"][..., 5]
    numbers[0, 4] = 2
    path = written(detector(outputs), tmp_path / "it.onnx")
    if ending == ".xml":
        network = openvino.Core().read_model(path)
        openvino.save_model(network, path.with_suffix(".xml"), compress_to_fp16=False)
    with pytest.raises(ModelError, match="finds class 2, .* and only 2 classes are named"):
        understand(path.with_suffix(ending), ImportOptions(classes=NAMES[:2], head=head))


def test_names_and_licence_are_those_of_the_metadata(tmp_path):
    facts = {"names": "{0: 'a', 1: 'b', 2: 'c'}", "license": "AGPL-3.0", "author": "Ultralytics"}
    imported = understood(detector(grid(), facts=facts), tmp_path)
    assert (imported.classes, imported.license, imported.notes) == (["a", "b", "c"], "AGPL-3.0", [])


@pytest.mark.parametrize(
    ("given", "kept"), [("MIT", "MIT; the file says AGPL-3.0"), ("AGPL-3.0", None)]
)
def test_a_licence_of_the_file_is_kept_beside_another_one(tmp_path, given, kept):
    network = detector(grid(), facts={"license": "AGPL-3.0"})
    imported = understood(network, tmp_path, classes=NAMES, license=given)
    assert imported.license == (kept or given)
    assert any("model.yaml has both" in note for note in imported.notes) == bool(kept)


def test_options_are_stronger_than_what_is_usual(tmp_path):
    path = written(detector(grid()), tmp_path / "it.onnx")
    options = ImportOptions(classes=NAMES, color="BGR", mean=(1, 2, 3), resize="stretch", padding=7)
    write_model(understand(path, options), tmp_path / "toy", open_model)
    model = load_model(str(tmp_path / "toy"))
    assert (model.input.resize, model.input.padding) == ("stretch", 7)
    assert (model.input.width, model.input.height) == SIZE
    runtime = open_backend("onnxruntime", BackendSettings())
    runtime.load(model)
    image = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(path))
    seen = ((image - np.array([1, 2, 3])) / 255).astype(np.float32).transpose(2, 0, 1)[None]
    wanted = plain_grid({"output0": session.run(None, {"images": seen})[0]})
    found = runtime.infer(image).classes[0][0].T
    np.testing.assert_allclose(found, [row for _, row in wanted], rtol=1e-4, atol=1e-4)
