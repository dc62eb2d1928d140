"""Each head against a plain decoder of the original network's own outputs, raw levels too."""

import math
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from refused import refused
from toy_detectors import GREY, HEIGHT, SIZE, WIDTH, Network, cells, detector, written

from perception_nodes.backends.contract import BackendSettings, open_backend, open_model
from perception_nodes.evaluation.model_card import render
from perception_nodes.networks import importer
from perception_nodes.networks.importer import ImportOptions, understand, write_model
from perception_nodes.networks.levels import REG_MAX, find_levels
from perception_nodes.networks.model import ModelError, load_model
from perception_nodes.networks.onnx_file import read_onnx
from perception_nodes.networks.onnx_rewrite import rewrite_onnx
from perception_nodes.networks.terms import Terms, terms_of

STRIDES = (8, 16, 32)
CLASSES = 3
NAMES = ["car", "bus", "truck"]
OPENVINO = "openvino's files"
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
    return [(of_middle(*column[:4]), column[4:]) for column in grid[0].T.tolist()]


def plain_scored(found):
    (rows,) = found.values()
    every = rows[0].tolist()
    return [(of_middle(*row[:4]), [row[4] * score for score in row[5:]]) for row in every]


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
        scores = row[:CLASSES]
        if logits:
            scores = [sigmoid(score) for score in scores]
        box = around(column * stride, line * stride, stride, row[CLASSES:])
        objects.append((box, scores))
    return objects


def plain_ncnn(found):
    (columns,) = found.values()
    return plain_nanodet({"rows": columns.transpose(0, 2, 1)}, logits=True)


def plain_detr(found):
    rows = zip(*(found[name][0].tolist() for name in ("boxes", "scores", "labels")), strict=True)
    every = range(CLASSES)
    return [(box, [score * (label == index) for index in every]) for box, score, label in rows]


def in_pixels(shares):
    x, y, width, height = shares
    return of_middle(x * WIDTH, y * HEIGHT, width * WIDTH, height * HEIGHT)


def plain_queries(found, scores_of=lambda row: [sigmoid(value) for value in row]):
    boxes, logits = (found[name][0].tolist() for name in ("pred_boxes", "logits"))
    return [(in_pixels(box), scores_of(row)) for box, row in zip(boxes, logits, strict=True)]


def plain_ultralytics_detr(found):
    (rows,) = found.values()
    scores = rows[..., 4:]
    return plain_queries({"pred_boxes": rows[..., :4], "logits": np.log(scores / (1 - scores))})


def anchors_and_maps():
    maps = {f"map_{s}": random(1, 3, HEIGHT // s, WIDTH // s, 5 + CLASSES) for s in STRIDES}
    return {**scored(3 * cells(*STRIDES)), **maps}


def plain_anchors(found):
    return plain_scored({"output": found["output"]})


def grid():
    rows = np.concatenate([middles(1, cells(*STRIDES)), random(1, cells(*STRIDES), CLASSES)], -1)
    return {"output0": rows.transpose(0, 2, 1).copy()}


def objects():
    columns = [corner_rows(1, 9), random(1, 9, 1), labels(1, 9, 1).astype(np.float32)]
    return {"output0": np.concatenate(columns, -1)}


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
    return {"labels": labels(1, 7), "boxes": corner_rows(1, 7), "scores": random(1, 7)}


def queries():
    boxes = random(1, 7, 4)
    boxes[0, 0, 2] = 1.2
    return {"logits": random(1, 7, CLASSES, low=-3, high=3), "pred_boxes": boxes}


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def softmax(row):
    weights = [math.exp(value) for value in row]
    return [one / sum(weights) for one in weights]


def around(x, y, stride, bins):
    """Corners from a centre and distances over bins, side by side."""
    few = len(bins) // 4
    sides = [softmax(bins[few * side :][:few]) for side in range(4)]
    left, top, right, low = (stride * sum(n * w for n, w in enumerate(one)) for one in sides)
    return [x - left, y - top, x + right, y + low]


def levels(found, strides, *channels):
    """Each cell's column, row and stride, and its channels of each kind, of outputs by level."""
    tensors = list(found.values())
    for level, stride in enumerate(strides):
        kinds = enumerate(channels)
        flat = [tensors[kind * len(strides) + level].reshape(n, -1) for kind, n in kinds]
        for place, (column, row, _) in enumerate(places(stride)):
            yield column, row, stride, [one[:, place].tolist() for one in flat]


def maps(strides, *channels, low=-2, high=2):
    """Outputs by kind and level, logits [1, channels, height, width]."""
    return {
        f"{kind}_{stride}": random(1, count, *cells_at(stride), low=low, high=high)
        for kind, count in enumerate(channels)
        for stride in strides
    }


def cells_at(stride):
    return -(-HEIGHT // stride), -(-WIDTH // stride)


def plain_bins(found, strides=STRIDES, bins=64, order=(0, 1)):
    channels = [bins, CLASSES] if order == (0, 1) else [CLASSES, bins]
    objects = []
    for column, row, stride, parts in levels(found, strides, *channels):
        sides, scores = parts[order[0]], parts[order[1]]
        centre = (column + 0.5) * stride, (row + 0.5) * stride
        objects.append((around(*centre, stride, sides), [sigmoid(score) for score in scores]))
    return objects


def plain_fused(found):
    parts = [array[:, :64] for array in found.values()] + [a[:, 64:] for a in found.values()]
    return plain_bins(dict(enumerate(parts)))


V5 = np.array([10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326])
V5 = V5.reshape(3, 3, 2).tolist()
FAST = (
    ((12.64, 19.39), (37.88, 51.48), (55.71, 138.31)),
    ((126.91, 78.23), (131.57, 214.55), (279.92, 258.87)),
)


def of_anchor(column, row, stride, anchor, box):
    x, y, width, height = (2 * sigmoid(value) for value in box)
    centre = (x - 0.5 + column) * stride, (y - 0.5 + row) * stride
    return of_middle(*centre, width**2 * anchor[0], height**2 * anchor[1])


def plain_v5_maps(found):
    """Of maps [1, 3 (5 + classes), height, width]."""
    objects = []
    for level, (stride, array) in enumerate(zip(STRIDES, found.values(), strict=True)):
        for anchor, rows in enumerate(array.reshape(3, 5 + CLASSES, -1)):
            for (column, row, _), part in zip(places(stride), rows.T.tolist(), strict=True):
                box = of_anchor(column, row, stride, V5[level][anchor], part[:4])
                sure = sigmoid(part[4])
                objects.append((box, [sure * sigmoid(score) for score in part[5:]]))
    return objects


def plain_fast(found):
    """Of maps [1, 12 + 3 + classes, height, width]."""
    objects = []
    for level, (stride, array) in enumerate(zip((16, 32), found.values(), strict=True)):
        rows = array.reshape(15 + CLASSES, -1).T.tolist()
        for anchor in range(3):
            for (column, line, _), row in zip(places(stride), rows, strict=True):
                box = of_anchor(column, line, stride, FAST[level][anchor], row[4 * anchor :][:4])
                sure = sigmoid(row[12 + anchor])
                objects.append((box, [sure * one for one in softmax(row[15:])]))
    return objects


def plain_fast_parts(found):
    """Of boxes, objects and classes apart."""
    joined = [np.concatenate(list(found.values())[level::2], axis=1) for level in (0, 1)]
    return plain_fast(dict(enumerate(joined)))


def plain_fast_rows(found):
    """Of rows of all cells, whose objects stand anchor by anchor over both levels."""
    (rows,) = found.values()
    sizes = [len(places(stride)) for stride in (16, 32)]
    left = plain_fast({0: rows[: sizes[0]].T[None], 1: rows[sizes[0] :].T[None]})
    by_level = []  # for each level and anchor its objects
    for size in (size for size in sizes for _ in range(3)):
        by_level.append(left[:size])
        del left[:size]
    return [one for anchor in range(3) for one in by_level[anchor] + by_level[3 + anchor]]


def plain_fastestdet(found):
    objects = []
    for column, row, stride, ((sure, *part),) in levels(found, (16,), 5 + CLASSES):
        x, y = (math.tanh(part[0]) + column) * stride, (math.tanh(part[1]) + row) * stride
        size = sigmoid(part[2]) * WIDTH, sigmoid(part[3]) * HEIGHT
        scores = [sigmoid(sure) ** 0.6 * one**0.4 for one in softmax(part[4:])]
        objects.append((of_middle(x, y, *size), scores))
    return objects


def plain_apart(found, box=lambda box: box, drop=slice(None)):
    boxes, scores = found.values()
    boxes = boxes.reshape(-1, 4).tolist()
    return [(box(one), row[drop]) for one, row in zip(boxes, scores[0].tolist(), strict=True)]


def plain_numbers(first, **columns):
    """Of rows with the columns of each part."""

    def plain(found):
        tables = [
            array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1) for array in found.values()
        ]
        rows = np.concatenate(tables, axis=1).tolist()
        share, numbers = columns.get("share", (1, 1, 1, 1)), range(first, first + CLASSES)
        return [
            (
                [side * one for side, one in zip(row[columns["box"]], share, strict=True)],
                [row[columns["score"]] * (row[columns["number"]] == n) for n in numbers],
            )
            for row in rows
        ]

    return plain


ROWS_OF_SIX = plain_numbers(0, box=slice(0, 4), score=4, number=5)


def plain_rows(take):
    """Of an output whose columns that are taken are those of Ultralytics' grid."""
    return lambda found: plain_grid({"output0": take(next(iter(found.values())))})


def plain_turned_boxes(found):
    (grid,) = found.values()
    objects = []
    for x, y, width, height, *scores, angle in grid[0].T.tolist():
        cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
        spans = width * cos + height * sin, width * sin + height * cos
        objects.append((of_middle(x, y, *spans), scores))
    return objects


def plain_softmax_detr(found):
    return plain_queries(found, lambda row: softmax(row)[:-1])


def joined_columns(*arrays):
    return {"output0": np.concatenate(arrays, axis=1)}


def corner_rows(*shape, largest=60):
    return np.sort(random(*shape, 2, 2, high=largest), axis=-2).reshape(*shape, 4)


def labels(*shape, first=0):
    return RANDOM.integers(first, CLASSES + first, shape)


def softmax_detr():
    logits = random(1, 7, CLASSES + 1, low=-3, high=3)
    logits[..., -1] = 8
    return {"logits": logits, "pred_boxes": random(1, 7, 4)}


def ssd_scores():
    scores = random(1, 9, CLASSES + 1, low=0.1, high=0.9)
    scores[..., 0] = 9
    scores /= scores.sum(axis=2, keepdims=True)
    return {"boxes": corner_rows(1, 9, largest=0.9), "scores": scores}


def ssd_rows():
    numbers = labels(9, 1, first=1)
    rows = [np.zeros((9, 1)), numbers, random(9, 1), corner_rows(9, largest=0.9)]
    return {"detection_out": np.concatenate(rows, axis=1).astype(np.float32)[None, None]}


RGB = (0, 255.0, True)
BGR = (0, 1.0, False)
SHARES = (0, 255.0, False)
MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
IMAGENET_BGR = (MEAN, STD, False)
PIXELS = np.array([WIDTH, HEIGHT] * 2)
CLASS_BINS = CLASSES + 64
MORE_HEADS = {
    "ultralytics-turned": (
        lambda: {"output0": grid()["output0"].transpose(0, 2, 1).copy()},
        plain_rows(lambda array: array.transpose(0, 2, 1)),
    ),
    "ultralytics in shares": (
        lambda: {"output0": random(1, 4 + CLASSES, cells(*STRIDES), low=0.01)},
        plain_rows(
            lambda array: np.concatenate([array[:, :4] * PIXELS[None, :, None], array[:, 4:]], 1)
        ),
    ),
    "ultralytics-maps": (lambda: maps(STRIDES, 64, CLASSES), plain_bins),
    "ultralytics-maps of nine": (lambda: maps(STRIDES, 64, CLASSES, 1), plain_bins),
    "ultralytics-maps of three": (lambda: maps(STRIDES, CLASS_BINS), plain_fused),
    "ultralytics-segment": (
        lambda: (
            joined_columns(grid()["output0"], random(1, 32, cells(*STRIDES)))
            | {"output1": random(1, 32, 16, 24)}
        ),
        plain_rows(lambda array: array[:, :-32]),
        {"facts": {"task": "segment"}},
        RGB,
    ),
    "ultralytics-pose": (
        lambda: joined_columns(grid()["output0"], random(1, 12, cells(*STRIDES))),
        plain_rows(lambda array: array[:, :-12]),
        {"facts": {"task": "pose", "kpt_shape": "[4, 3]"}},
        RGB,
    ),
    "ultralytics-obb": (
        lambda: joined_columns(grid()["output0"], random(1, 1, cells(*STRIDES), low=-1.5)),
        plain_turned_boxes,
        {"facts": {"task": "obb"}},
        RGB,
    ),
    "yolov5-maps": (lambda: maps(STRIDES, 3 * (5 + CLASSES)), plain_v5_maps),
    "yolov5-maps of planes": (
        lambda: {
            f"map_{s}": random(1, 3, *cells_at(s), 5 + CLASSES, low=-2, high=2) for s in STRIDES
        },
        lambda found: plain_v5_maps({n: a.transpose(0, 1, 4, 2, 3) for n, a in found.items()}),
    ),
    "nanodet": (
        lambda: maps(STRIDES, CLASSES, 32),
        lambda found: plain_bins(found, bins=32, order=(1, 0)),
        {},
        IMAGENET_BGR,
    ),
    "picodet": (
        lambda: maps((*STRIDES, 64), CLASSES, 32),
        lambda found: plain_bins(found, (*STRIDES, 64), bins=32, order=(1, 0)),
        {},
        (MEAN[::-1], STD[::-1], True),
    ),
    "paddle": (
        lambda: {
            "rows": np.concatenate([labels(9, 1), random(9, 1), corner_rows(9)], 1).astype("f"),
            "count": np.array([9.0], np.float32),
        },
        lambda found: plain_numbers(0, box=slice(2, 6), score=1, number=0)({"rows": found["rows"]}),
        {},
        (MEAN[::-1], STD[::-1], True),
    ),
    "yolo-fastestv2": (
        lambda: {"out": random(cells(16, 32), 15 + CLASSES, low=-2, high=2)},
        plain_fast_rows,
        {},
        SHARES,
    ),
    "yolo-fastestv2 of two": (lambda: maps((16, 32), 15 + CLASSES), plain_fast, {}, SHARES),
    "yolo-fastestv2 of six": (lambda: maps((16, 32), 12, 3, CLASSES), plain_fast_parts, {}, SHARES),
    "fastestdet": (lambda: maps((16,), 5 + CLASSES), plain_fastestdet, {}, SHARES),
    "boxes-scores": (
        lambda: {"boxes": corner_rows(1, 9), "scores": random(1, 9, CLASSES)},
        plain_apart,
    ),
    "middles-scores": (
        lambda: {"boxes": middles(1, 9), "scores": random(1, 9, CLASSES)},
        lambda found: plain_apart(found, lambda box: of_middle(*box)),
    ),
    "ssd-scores": (
        ssd_scores,
        lambda found: plain_apart(found, lambda box: list(box * PIXELS), slice(1, None)),
        {"grey": GREY / 1000},
        RGB,
    ),
    "ssd": (
        ssd_rows,
        plain_numbers(1, box=slice(3, 7), score=2, number=1, share=PIXELS.tolist()),
        {"grey": GREY / 255},
        BGR,
    ),
    "boxes-labels": (
        lambda: {"boxes": np.concatenate([corner_rows(9), random(9, 1)], 1), "labels": labels(9)},
        ROWS_OF_SIX,
        {"grey": GREY / 255},
        BGR,
    ),
    "torchvision": (
        lambda: {"boxes": corner_rows(9), "labels": labels(9, first=1), "scores": random(9)},
        plain_numbers(1, box=slice(0, 4), score=5, number=4),
    ),
    "detr-softmax": (softmax_detr, plain_softmax_detr, {}, (MEAN[::-1], STD[::-1], True)),
}
HEADS = {
    "ultralytics": (grid, plain_grid),
    "ultralytics-nms": (objects, ROWS_OF_SIX),
    "yolov5": (lambda: scored(3 * cells(*STRIDES)), plain_scored),
    "yolov5 with its maps": (anchors_and_maps, plain_anchors),
    "yolov6": (lambda: scored(cells(*STRIDES)), plain_scored),
    "yolox": (
        lambda: scored(cells(*STRIDES)),
        plain_scored,
        {"focus": True, "operator": "Exp", "grey": GREY / 255},
        BGR,
    ),
    "yolox-raw": (yolox_raw, plain_yolox, {"focus": True, "grey": GREY / 255}, BGR),
    "nanodet-plus": (nanodet, plain_nanodet, {"operator": "Sigmoid"}, IMAGENET_BGR),
    "nanodet-plus of ncnn": (ncnn, plain_ncnn, {}, IMAGENET_BGR),
    "detr": (detr, plain_detr),
    "detr-queries": (queries, plain_queries),
    "ultralytics-rtdetr-rows": (
        lambda: {"output0": np.concatenate([random(1, 9, 5), objects()["output0"][..., 5:]], -1)},
        lambda found: [(in_pixels(box), scores) for box, scores in ROWS_OF_SIX(found)],
    ),
    "ultralytics-rtdetr": (
        lambda: {"output0": np.concatenate([random(1, 7, 4), random(1, 7, CLASSES)], -1)},
        plain_ultralytics_detr,
    ),
}


def inferred(backend, model, image):
    runtime = open_backend(backend, BackendSettings())
    runtime.load(model)
    return runtime.infer(image)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        *((case, kind) for case in HEADS for kind in ("onnxruntime", "openvino", OPENVINO)),
        # Both runtimes are compared before a model is written.
        *((case, "onnxruntime") for case in MORE_HEADS),
        ("boxes-labels", OPENVINO),
    ],
)
def test_boxes_and_scores_are_those_of_the_original(case, kind, tmp_path):
    make, plain, *rest = {**HEADS, **MORE_HEADS}[case]
    extra, pixels = rest or ({}, RGB)
    network = detector(make(), **extra)
    path = written(network, tmp_path / "original.onnx")
    asked = "yolov6" if case == "yolov6" else ""  # which looks like a YOLOX
    given, backend = path, kind.partition("'")[0]
    if "files" in kind:
        given = written(network, path.with_suffix(".xml"))
    imported = understand(given, ImportOptions(classes=NAMES, head=asked))
    assert imported.head.name == case.split(" ")[0]
    write_model(imported, tmp_path / "models/toy", open_model)

    image = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[..., 0] //= 3  # channels in the wrong order would make a difference
    mean, std, swap = pixels
    seen = ((image[..., ::-1] if swap else image) - np.array(mean)) / std
    session = onnxruntime.InferenceSession(str(path))
    feed = {"images": seen.transpose(2, 0, 1)[None].astype(np.float32)}
    names = [output.name for output in session.get_outputs()]
    wanted = plain(dict(zip(names, session.run(names, feed), strict=True)))

    model = load_model(str(tmp_path / "models/toy"))
    heads = inferred(backend, model, image)
    boxes, scores = heads.boxes[0][0].T, heads.classes[0][0].T
    np.testing.assert_allclose(boxes, [box for box, _ in wanted], rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(scores, [row for _, row in wanted], rtol=1e-4, atol=1e-4)


def test_boxes_and_scores_of_another_kind_are_refused(tmp_path):
    logits = random(1, 3000, CLASSES, low=-3, high=3)
    network = detector({"boxes": random(1, 3000, 4), "scores": logits})
    said = refusal(network, tmp_path, classes=NAMES)
    assert "no head of a detector that is known here" in said


@pytest.mark.parametrize(("make", "opset"), [(grid, 17), (detr, 18)])
def test_only_some_classes_are_kept_in_the_order_given(make, opset, tmp_path):
    path = written(detector(make(), opset=opset), tmp_path / "it.onnx")
    image = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    found = []
    for number, keep in enumerate((None, ["truck", "car"], ["bus", "vehicle = car + truck"])):
        imported = understand(path, ImportOptions(classes=NAMES, keep=keep))
        model = write_model(imported, tmp_path / "m" / str(number), open_model)
        found.append(inferred("openvino", model, image).classes[0].copy())
    assert (model.classes, model.outputs.suppressed) == (["bus", "vehicle"], False)
    assert "vehicle of car + truck" in render(model, {}, None)
    np.testing.assert_array_equal(found[1], found[0][:, [2, 0]])
    best = found[0][:, [0, 2]].max(axis=1, keepdims=True)
    np.testing.assert_array_equal(found[2], np.concatenate([found[0][:, [1]], best], axis=1))
    for wrong, said in (("van", "van"), ("=car", "a class"), ("a=car+car", "the class 'car'")):
        with pytest.raises(ModelError, match=f"--keep names {said}.*; the classes of"):
            understand(path, ImportOptions(classes=NAMES, keep=[wrong]))


def understood(network, folder, **options):
    return understand(written(network, folder / "it.onnx"), ImportOptions(**options))


def refusal(network, folder, **options):
    return refused(ModelError, understood, network, folder, **options)


def test_what_may_be_two_heads_is_asked_for(tmp_path):
    said = refusal(detector(scored(cells(*STRIDES))), tmp_path, classes=NAMES)
    assert "which may be" in said and "yolov6" in said and "--head" in said


@pytest.mark.parametrize("strides", [(*STRIDES, 64), (4, *STRIDES), (16, 32)])
def test_the_author_in_the_metadata_decides(strides, tmp_path):
    rows = np.concatenate([middles(1, cells(*strides)), random(1, cells(*strides), 40)], -1)
    outputs = {"output0": rows.transpose(0, 2, 1).copy()}
    facts = {"author": "Ultralytics", "names": str([f"class {n}" for n in range(40)])}
    assert understood(detector(outputs, facts=facts), tmp_path).head.name == "ultralytics"
    anyone = detector(outputs, facts={"task": "detect"})
    assert "which may be" in refusal(anyone, tmp_path)
    named = understood(anyone, tmp_path, classes=[str(n) for n in range(40)])
    assert named.head.name == "ultralytics"


def rows_of_six(numbered, largest):
    boxes, last = random(1, 9, 5, low=0.1, high=0.9), random(1, 9, 1, low=0.1, high=0.9)
    boxes[..., :4] = corner_rows(1, 9, largest=largest)
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
    masks = {"masks": random(1, 8, 8, 12)}
    assert "masks [1, 8, 8, 12] at 96x64, which is no head" in refusal(detector(masks), tmp_path)


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
    path = written(detector(outputs), tmp_path / f"it{ending}")
    with pytest.raises(ModelError, match="finds class 2, .* and only 2 classes are named"):
        understand(path, ImportOptions(classes=NAMES[:2], head=head))


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


@pytest.mark.parametrize(
    "change",
    [
        {"facts": {"author": "Ultralytics"}},
        {"facts": {"description": "Ultralytics YOLO11n model"}},
        {},  # the head says it
        {"outputs": lambda: scored(3 * cells(*STRIDES))},
        {"outputs": queries, "layer": "/model.22/cv2/Conv"},
        {"outputs": queries, "weights": "model.0.conv.weight"},
    ],
)
@pytest.mark.parametrize("given", ["", "Apache-2.0", "AGPL-3.0"])
def test_a_network_of_ultralytics_stays_theirs_when_it_no_longer_says_so(change, given, tmp_path):
    network = detector(change.get("outputs", grid)(), facts=change.get("facts"))
    network.graph.node[0].name = change.get("layer", "")
    if "weights" in change:
        network.graph.initializer[0].name = network.graph.node[0].input[1] = change["weights"]
    imported = understood(network, tmp_path, classes=NAMES, license=given)
    assert terms_of(imported.license) == Terms.COPYLEFT
    assert imported.license.startswith("AGPL-3.0" if given == "AGPL-3.0" else "probably AGPL-3.0")
    assert given in imported.license


def test_yolov7_is_under_the_gpl(tmp_path):
    raw, decoded = maps(STRIDES, 3 * (5 + CLASSES)), scored(3 * cells(*STRIDES))
    options = {"classes": NAMES, "head": "yolov7-maps", "license": "MIT"}
    imported = understood(detector(raw), tmp_path, **options)
    assert imported.license == "probably GPL-3.0; the importer says MIT"
    imported = understood(detector(decoded), tmp_path, classes=NAMES, license="GPL-3.0")
    assert imported.license == "GPL-3.0", "or is it YOLOv5?"


def test_a_licence_that_only_the_importer_states_is_marked(tmp_path):
    imported = understood(detector(queries()), tmp_path, classes=NAMES, license="Apache-2.0")
    assert (imported.license, imported.license_by) == ("Apache-2.0", "the importer")
    model = write_model(imported, tmp_path / "toy", open_model)
    assert model.terms == Terms.PERMISSIVE
    assert "who states the licence: the importer" in render(model, {}, None)


def test_options_are_stronger_than_what_is_usual(tmp_path):
    path = written(detector(grid()), tmp_path / "it.onnx")
    options = ImportOptions(classes=NAMES, color="BGR", mean=(1, 2, 3), resize="stretch", padding=7)
    write_model(understand(path, options), tmp_path / "toy", open_model)
    model = load_model(str(tmp_path / "toy"))
    assert (model.input.resize, model.input.padding) == ("stretch", 7)
    assert (model.input.width, model.input.height) == SIZE
    image = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(path))
    seen = ((image - np.array([1, 2, 3])) / 255).astype(np.float32).transpose(2, 0, 1)[None]
    wanted = plain_grid({"output0": session.run(None, {"images": seen})[0]})
    found = inferred("onnxruntime", model, image).classes[0][0].T
    np.testing.assert_allclose(found, [row for _, row in wanted], rtol=1e-4, atol=1e-4)


def yolo(to, scores_of, boxes_of):
    """Names of the raw tensors; the output is computed of them as Ultralytics does."""
    random = np.random.default_rng(5)
    raw, flat, places = [], [], []
    for stride in STRIDES:
        sides = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
        pooled = to.op("AveragePool", "images", **sides)
        for count, bias in ((4 * REG_MAX, 0), (CLASSES, -9)):  # as where there are no objects
            weights = to.constant(random.normal(0, 2, (count, 3, 1, 1)))
            raw.append(to.op("Conv", pooled, weights, to.constant(np.full(count, bias))))
        shape = to.constant([1, -1, cells(stride)], np.int64)
        parts = [to.op("Reshape", one, shape) for one in raw[-2:]]
        flat.append(parts)
        y, x = np.mgrid[: HEIGHT // stride, : WIDTH // stride]
        places.append(np.stack([x.ravel() + 0.5, y.ravel() + 0.5, np.full(x.size, stride)]))
    x_y_stride = np.concatenate(places, axis=1)[None]
    centres, strides = to.constant(x_y_stride[:, :2]), to.constant(x_y_stride[:, 2:])
    logits, classes = (to.op("Concat", *kind, axis=2) for kind in zip(*flat, strict=True))
    shape = to.constant([1, 4, REG_MAX, cells(*STRIDES)], np.int64)
    bins = to.op("Softmax", to.op("Reshape", logits, shape), axis=2)
    numbers = to.constant(np.arange(REG_MAX).reshape(1, 1, -1, 1))
    axis = to.constant([2], np.int64)
    reach = to.op("ReduceSum", to.op("Mul", bins, numbers), axis, keepdims=0)
    two = to.constant([2, 2], np.int64)
    to.nodes.append(helper.make_node("Split", [reach, two], ["low", "high"], axis=1))
    half = to.op("Mul", to.op("Sub", "high", "low"), to.constant(0.5))
    middle = to.op("Add", centres, half)
    boxes = to.op("Concat", middle, to.op("Add", "low", "high"), axis=1)
    scores = scores_of(to, to.op("Sigmoid", classes))
    boxes = boxes_of(to, to.op("Mul", boxes, strides))
    to.nodes.append(helper.make_node("Concat", [boxes, scores], ["output0"], axis=1))
    return raw[::2], raw[1::2]


def same(_to, tensor):
    return tensor


def reversed_classes(to, tensor):
    return to.op("Gather", tensor, to.constant([2, 1, 0], np.int64), axis=1)


@pytest.mark.parametrize(
    ("scores", "boxes", "taken"),
    [
        (same, same, True),
        (reversed_classes, same, False),
        (lambda to, scores: to.op("Mul", scores, to.constant(7)), same, False),
        (same, lambda to, boxes: to.op("Add", boxes, to.constant(1)), False),
    ],
)
def test_the_raw_head_must_mean_the_same(scores, boxes, taken, tmp_path):
    to = Network()
    raw = yolo(to, scores, boxes)
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])
    output = helper.make_tensor_value_info("output0", TensorProto.FLOAT, None)
    graph = helper.make_graph(to.nodes, "toy", [image], [output], to.tensors)
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    source = read_onnx(written(network, tmp_path / "it.onnx"), None)
    assert find_levels(source, STRIDES, CLASSES) == (raw if taken else None)
