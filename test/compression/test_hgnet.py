"""The backbone of DEIMv2-Femto becomes a network of ours, which learns from label files."""

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from test_distillation import SIZE, begin, frames, pictures_in, recipe, views

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")
pytest.importorskip("ultralytics", reason="needs the build tools: make compression")

from model_compression.distillation.femto import FemtoTrainer
from model_compression.distillation.folders import write_folders
from model_compression.distillation.hgnet import BLOCKS, LIGHT, STEM, Femto, HGNetwork, fit
from model_compression.distillation.training import STATE
from model_compression.errors import CompressionError
from model_compression.labels import CLASSES
from perception_nodes.networks.model import load_model

__all__ = ["frames", "views"]
SIDE_PX = 192
PLAIN = "/encoder/input_proj.0/conv"
ENDS = [*(f"/backbone/stages.{i}/widen/act" for i in range(len(BLOCKS))), PLAIN]
"""What the original's blocks make, and the first map of its pyramid."""


class Original:
    """An ONNX file with layers and names of the original's, and random weights."""

    def __init__(self):
        self.nodes, self.stored = [], []
        self.rng = np.random.default_rng(0)

    def add(self, kind, inputs, name, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, name, value):
        self.stored.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def conv(self, x, name, into, out, side=1, stride=1, groups=1):
        shape = out, into // groups, side, side
        weight = self.rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        values = {"weight": weight, "bias": self.rng.normal(0, 0.1, out)}
        stored = [self.constant(f"{name}.{key}", value) for key, value in values.items()]
        pads = [side // 2 if side % 2 else 0] * 4
        named = {"strides": [stride] * 2, "pads": pads, "group": groups}
        return self.add("Conv", [x, *stored], f"{name}/conv", **named)

    def active(self, name, *conv, **given):
        x = self.add("Relu", [self.conv(*conv[:1], name, *conv[1:], **given)], f"{name}/act")
        x = self.add("Mul", [self.constant(f"{name}.scale", [0.7]), x], f"{name}/lab/Mul")
        return self.add("Add", [x, self.constant(f"{name}.shift", [0.3])], f"{name}/lab/Add")

    def padded(self, x):
        return self.add("Pad", [x, "pads"], f"{x}/pad")

    def stem(self):
        stem, half = "/backbone/stem/", STEM // 2
        numbers = np.array([0, 0, 0, 0, 0, 0, 1, 1])
        self.stored.append(numpy_helper.from_array(numbers, "pads"))
        x = self.padded(self.active(f"{stem}1", "images", 3, STEM, 3, 2))
        worked = self.padded(self.active(f"{stem}2a", x, STEM, half, 2))
        worked = self.active(f"{stem}2b", worked, half, STEM, 2)
        pooled = self.add("MaxPool", [x], f"{stem}pool", kernel_shape=[2, 2])
        x = self.add("Concat", [pooled, worked], f"{stem}joined", axis=1)
        return self.active(f"{stem}4", self.active(f"{stem}3", x, 2 * STEM, STEM, 3, 2), STEM, STEM)

    def block(self, x, stage, sizes, light):
        into, inner, squeezed, out = sizes
        name = f"/backbone/stages.{stage}/"
        if stage:
            x = self.conv(x, f"{name}down", into, into, 3, 2, into)
        maps, channels = [x], into
        for i in range(3):
            if light:
                x = self.conv(maps[-1], f"{name}{i}/point", channels, inner)
                maps.append(self.active(f"{name}{i}", x, inner, inner, light, groups=inner))
            else:
                maps.append(self.active(f"{name}{i}", maps[-1], channels, inner, 3))
            channels = inner
        x = self.add("Concat", maps, f"{name}joined", axis=1)
        x = self.active(f"{name}squeeze", x, into + 3 * inner, squeezed)
        return self.active(f"{name}widen", x, squeezed, out)

    def write(self, file):
        x = self.stem()
        for stage, (sizes, light) in enumerate(zip(BLOCKS, LIGHT, strict=True)):
            x = self.block(x, stage, sizes, light)
        self.conv(x, PLAIN.removesuffix("/conv"), BLOCKS[-1][-1], 96)
        image = helper.make_tensor_value_info("images", 1, [1, 3, SIDE_PX, SIDE_PX])
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in ENDS]
        graph = helper.make_graph(self.nodes, "femto", [image], outputs, self.stored)
        opset = helper.make_opsetid("", 17)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), file)
        return file


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return Original().write(tmp_path_factory.mktemp("femto") / "femto.onnx")


@pytest.fixture(scope="module")
def images():
    noise = np.random.default_rng(1).uniform(0, 1, (3, SIDE_PX, SIDE_PX)).astype(np.float32)
    return torch.from_numpy(np.stack([cv2.GaussianBlur(one, (0, 0), 3) for one in noise])[None])


def inner(x):
    """A map without its border, where the original pads with other values."""
    edge = x.shape[2] // 3
    return x[:, :, edge:-edge, edge:-edge]


@torch.no_grad()
def test_the_network_begins_as_the_original(file, images):
    network = HGNetwork(len(CLASSES)).eval()
    assert Femto(file).fill(network, images) > 0.9
    session = onnxruntime.InferenceSession(file)
    theirs = session.run(ENDS, {"images": images.numpy()})
    x, found = network.model[0](images), []
    for stage in network.model[1:4]:
        x = stage(x)
        found.append(x)
    found.append(network.model[4].middle.conv(x))
    for ours, wanted in zip(found, theirs, strict=True):
        missed = inner(ours.numpy() - wanted)
        assert (missed**2).mean() < 0.1 * inner(wanted).var()


def test_a_convolution_is_fitted_to_what_another_makes():
    torch.manual_seed(0)
    own, other = (torch.nn.Conv2d(4, 6, 3, 2, 1) for _ in range(2))
    x = torch.rand(2, 4, 32, 48)
    with torch.no_grad():
        assert fit(own, x, other(x)) > 0.999
        assert torch.allclose(own(x), other(x), atol=0.02)


@pytest.mark.parametrize("content", [b"no network", None])
def test_another_file_is_refused_by_name(tmp_path, file, content):
    other = tmp_path / "other.onnx"
    if content is None:
        model = onnx.load(file)
        del model.graph.node[-1]
        onnx.save(model, other)
    else:
        other.write_bytes(content)
    with pytest.raises(CompressionError, match=r"other\.onnx (cannot be read|is another network)"):
        Femto(other)


def test_it_learns_from_labels_goes_on_and_becomes_folders(tmp_path, file, frames, views):
    pictures_in(tmp_path)
    given = recipe(40, network="hgnet").model_copy(update={"data": tmp_path})
    trainer = FemtoTrainer(given, tmp_path, Femto(file))
    assert begin(trainer, frames)
    stage = given.stages[0].model_copy(update={"kept": 1.0})
    losses = [trainer.learn(views, stage) for _ in range(40)]
    assert losses[-1]["classes"] < losses[0]["classes"] / 2
    trainer.save()
    again = FemtoTrainer(given, tmp_path, Femto(file))
    assert again.begun and again.step == 40
    folders = write_folders(given, tmp_path / STATE, "toy", SIZE, tmp_path / "models")
    floats, small = (load_model(str(folder)) for folder in folders)
    assert tuple(floats.classes) == tuple(small.classes) == CLASSES and small.s8
