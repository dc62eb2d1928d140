"""The raw head is taken only where it means the boxes and scores of the network's own output."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from toy_detectors import HEIGHT, WIDTH, Network, cells, written

from perception_nodes.networks.levels import REG_MAX, find_levels
from perception_nodes.networks.onnx_file import read_onnx

STRIDES = (8, 16, 32)
CLASSES = 3


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
        parts = [
            to.op("Reshape", one, to.constant([1, -1, cells(stride)], np.int64)) for one in raw[-2:]
        ]
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


def seven_times(to, tensor):
    return to.op("Mul", tensor, to.constant(7))


def moved(to, tensor):
    return to.op("Add", tensor, to.constant(1))


@pytest.mark.parametrize(
    ("scores", "boxes", "taken"),
    [
        (same, same, True),
        (reversed_classes, same, False),
        (seven_times, same, False),
        (same, moved, False),
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
