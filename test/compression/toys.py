"""A toy detector with one of everything that a real one has, and frames for it."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model_compression.quantization import emit, measure

HEIGHT, WIDTH = 32, 64


def toy(activation="HardSwish", seed=0, groups=8):
    """A float graph as compression.export writes it, with random weights."""
    rng = np.random.default_rng(seed)
    nodes, tensors = [], []

    def constant(name, value):
        tensors.append(numpy_helper.from_array(value, name))
        return name

    def add(kind, inputs, name, outputs=None, **attributes):
        outputs = outputs or [f"{name}_out"]
        nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs[0]

    def convolution(source, name, channels, size=1, stride=1, output=None, groups=1):
        out, into = channels
        weight = rng.normal(0, 1.5 / np.sqrt(into * size**2), (out, into, size, size))
        return add(
            "Conv",
            [
                source,
                constant(f"{name}.weight", weight.astype(np.float32)),
                constant(f"{name}.bias", rng.normal(0, 0.5, out).astype(np.float32)),
            ],
            name,
            [output] if output else None,
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[size // 2] * 4,
            dilations=[1, 1],
            group=groups,
        )

    def block(source, name, *args, **options):
        x = convolution(source, name, *args, **options)
        if activation == "SiLU":
            gate = add("Sigmoid", [x], f"{name}.gate")
            return add("Mul", [x, gate], f"{name}.act")
        return add(activation, [x], f"{name}.act")

    scale = constant("image_scale", np.float32(1 / 255))
    zero_point = constant("image_zero_point", np.uint8(0))
    image = add("DequantizeLinear", ["image", scale, zero_point], "", ["image_dq"])
    image = add("Transpose", [image], "", ["image_float"], perm=[0, 3, 1, 2])
    a = block(image, "stem", (8, 3), 3, 2)
    a = block(a, "down", (8, 8), 3, 2)
    b = block(a, "enter", (8, 8))
    parts = constant("parts", np.array([4, 4], np.int64))
    add("Split", [b, parts], "split", ["b0", "b1"], axis=1)
    c = block("b1", "inner", (4, 4), 3)
    c = add("Add", ["b1", c], "sum")
    d = add("Concat", ["b0", "b1", c], "join", axis=1)
    d = block(d, "leave", (8, 12), 3, 2)
    pooled = add("MaxPool", [d], "pool", kernel_shape=[5, 5], pads=[2, 2, 2, 2], strides=[1, 1])
    e = block(add("Concat", [d, pooled], "pyramid", axis=1), "mix", (8, 16))
    twice = constant("twice", np.array([1, 1, 2, 2], np.float32))
    f = add(
        "Resize", [e, "", twice], "up",
        mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    f = add("Concat", [f, a], "skip", axis=1)
    convolution(block(f, "box", (8, 16)), "box.last", (8, 8), output="box_8")
    g = block(block(f, "class", (8, 16), 3), "depthwise", (8, 8 // groups), 3, groups=groups)
    convolution(g, "class.last", (3, 8), output="class_8")
    outputs = {"box_8": (1, 8, 8, 16), "class_8": (1, 3, 8, 16)}
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, (1, HEIGHT, WIDTH, 3))],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in outputs.items()],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def toy_in_8_bits(dialect="u8", activation="HardSwish", groups=8, **options):
    """The same after quantization by its frames, with options of the calibration."""
    model = toy(activation, groups=groups)
    return emit(model, measure(model, toy_frames(), "toy", **options), dialect)


def toy_frames(count=8, seed=0):
    """Frames of smooth colours with noise, as (source, uint8 [HEIGHT, WIDTH, 3])."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for index in range(count):
        waves = [np.sin(rng.normal(0, 0.15) * x + rng.normal(0, 0.15) * y) for _ in range(3)]
        picture = 120 + 90 * np.stack(waves, axis=2) + rng.normal(0, 15, (HEIGHT, WIDTH, 3))
        yield f"toy/{index}", np.clip(picture, 0, 255).astype(np.uint8)
