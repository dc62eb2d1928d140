"""Small networks with the outputs of published detectors, which all channels of the image move."""

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper

SIZE = WIDTH, HEIGHT = 96, 64
GREY = np.array([0.01, 0.02, 0.04], np.float32)
"""What a channel of the network's own order adds to every output, by its brightness."""


def cells(*strides):
    return sum(-(-WIDTH // stride) * -(-HEIGHT // stride) for stride in strides)


class Network:
    """A graph that is written node by node."""

    def __init__(self):
        self.nodes, self.tensors = [], []

    def constant(self, values, dtype=np.float32):
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype), f"c{self.count}"))
        return self.tensors[-1].name

    def op(self, kind, *inputs, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [f"t{self.count}"], **attributes))
        return self.nodes[-1].output[0]

    @property
    def count(self):
        return len(self.nodes) + len(self.tensors)


def detector(outputs, focus=False, operator="", size=SIZE, facts=None, opset=17, grey=GREY):
    """A network whose outputs are the given arrays, moved a little by the image.

    Args:
        outputs: array by name; whole numbers are not moved.
        focus: begin like YOLOX, with every other pixel four times.
        operator: one more in the graph, by which exporters are told apart; it adds nothing.
        size: width and height of the input; names are dynamic axes.
        facts: metadata.
        opset: of the file.
        grey: what a channel adds.
    """
    to = Network()
    seen, weights = "images", grey
    if focus:
        parts = []
        for corner in ([0, 0], [1, 0], [0, 1], [1, 1]):
            limits = (corner, [9999, 9999], [2, 3], [2, 2])
            names = [to.constant(values, np.int64) for values in limits]
            parts.append(to.op("Slice", "images", *names))
        seen, weights = to.op("Concat", *parts, axis=1), np.tile(grey / 4, 4)
    grey = to.op("Conv", seen, to.constant(weights.reshape(1, -1, 1, 1)))
    level = to.op("Reshape", to.op("GlobalAveragePool", grey), to.constant([1], np.int64))
    if operator:
        level = to.op("Add", level, to.op("Mul", to.op(operator, level), to.constant(0)))
    values = []
    for name, array in outputs.items():
        kind = TensorProto.FLOAT
        moved = to.op("Mul", level, to.constant(array % 1 != 0))
        if array.dtype == np.int64:
            kind = TensorProto.INT64
            moved = to.op("Cast", to.op("Mul", level, to.constant(0)), to=kind)
        last = to.op("Add", to.constant(array, array.dtype), moved)
        to.nodes[-1].output[0] = name
        assert last != name
        values.append(helper.make_tensor_value_info(name, kind, None))
    shape = ["n", 3, size[1], size[0]]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    graph = helper.make_graph(to.nodes, "toy", [image], values, to.tensors)
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    for key, value in (facts or {}).items():
        network.metadata_props.add(key=key, value=value)
    return network


def written(network, path):
    """As ONNX or, where the name says so, as OpenVINO's files."""
    if path.suffix == ".xml":
        read = openvino.Core().read_model(network.SerializeToString())
        openvino.save_model(read, path, compress_to_fp16=False)
    else:
        onnx.save(network, path)
    return path
