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

from model_compression.distillation.femto import KNOWN, Femto, fit
from model_compression.distillation.femto_training import FemtoTrainer
from model_compression.distillation.folders import write_folders
from model_compression.distillation.hgnet import BLOCKS, LIGHT, NARROW, STEM, WIDTH, HGNetwork
from model_compression.distillation.training import STATE
from model_compression.errors import CompressionError
from model_compression.labels import CLASSES
from perception_nodes.networks.model import load_model

__all__ = ["frames", "views"]
SIDE_PX = 256
ENDS = {f"backbone/stages.{i}/blocks/blocks.0/aggregation/aggregation.1/act": 0.1 for i in range(3)}
ENDS |= {"encoder/fpn_block/cv4": 0.1, "encoder/pan_block/cv4": 0.1, "decoder/enc_score_head": 0.2}
"""Of the original, and which share of its variance may be missed."""


class Original:
    """An ONNX file with layers and names of the original's, and random weights."""

    def __init__(self):
        self.nodes, self.stored = [], []
        self.rng = np.random.default_rng(0)

    def add(self, kind, inputs, name, end="", **attributes):
        self.nodes.append(
            helper.make_node(kind, inputs, [name], f"/model/{name}{end}", **attributes)
        )
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
        return self.add("Conv", [x, *stored], f"{name}/conv", "/Conv", **named)

    def active(self, x, name, *sizes, **given):
        x = self.add("Relu", [self.conv(x, name, *sizes, **given)], f"{name}/act")
        x = self.add("Mul", [self.constant(f"{name}.scale", [0.7]), x], f"{name}/lab/Mul")
        return self.add("Add", [x, self.constant(f"{name}.shift", [0.3])], f"{name}/lab/Add")

    def swished(self, x, name, *sizes):
        x = self.conv(x, name, *sizes)
        return self.add("Mul", [x, self.add("Sigmoid", [x], f"{name}/sigmoid")], name)

    def padded(self, x):
        return self.add("Pad", [x, "pads"], f"{x}/pad")

    def stem(self):
        stem, half = "backbone/stem/stem", STEM // 2
        x = self.padded(self.active("images", f"{stem}1", 3, STEM, 3, 2))
        worked = self.padded(self.active(x, f"{stem}2a", STEM, half, 2))
        worked = self.active(worked, f"{stem}2b", half, STEM, 2)
        pooled = self.add("MaxPool", [x], f"{stem}pool", kernel_shape=[2, 2])
        x = self.add("Concat", [pooled, worked], f"{stem}joined", axis=1)
        return self.active(self.active(x, f"{stem}3", 2 * STEM, STEM, 3, 2), f"{stem}4", STEM, STEM)

    def block(self, x, stage, sizes, light):
        into, inner, squeezed, out = sizes
        name = f"backbone/stages.{stage}"
        if stage:
            x = self.conv(x, f"{name}/downsample", into, into, 3, 2, into)
        maps, name = [x], f"{name}/blocks/blocks.0"
        for layer, channels in enumerate((into, inner, inner)):
            own = f"{name}/layers.{layer}"
            if light:
                x = self.conv(maps[-1], f"{own}/conv1", channels, inner)
                maps.append(self.active(x, f"{own}/conv2", inner, inner, light, groups=inner))
            else:
                maps.append(self.active(maps[-1], own, channels, inner, 3))
        x = self.add("Concat", maps, f"{name}/joined", axis=1)
        end = f"{name}/aggregation/aggregation"
        x = self.active(x, f"{end}.0", into + 3 * inner, squeezed)
        return self.active(x, f"{end}.1", squeezed, out)

    def halved(self, x, name):
        x = self.add(
            "AveragePool", [x], f"{name}/mean", kernel_shape=[3, 3], strides=[2, 2],
            pads=[1] * 4, count_include_pad=1,
        )  # fmt: skip
        return self.swished(x, f"{name}/{name[8:]}.1", WIDTH, WIDTH)

    def fused(self, own, other, name):
        x = self.add("Add", [own, other], f"{name}/sum")
        x = self.swished(x, f"{name}/cv1", WIDTH, 2 * WIDTH)
        maps = [f"{name}/kept", f"{name}/worked"]
        self.nodes.append(helper.make_node("Split", [x], maps, axis=1))
        for part, channels in (("cv2", WIDTH), ("cv3", NARROW)):
            chain = f"{name}/{part}/{part}"
            x = self.swished(maps[-1], f"{chain}.0/conv1", channels, 2 * NARROW)
            kept, x = f"{chain}/kept", f"{chain}/worked"
            self.nodes.append(helper.make_node("Split", [f"{chain}.0/conv1"], [kept, x], axis=1))
            for layer in range(2):
                end = f"{chain}.0/bottlenecks/bottlenecks.{layer}"
                x = self.swished(x, end, NARROW, NARROW, 3)
            x = self.add("Add", [kept, x], f"{chain}/sum")
            maps.append(self.swished(x, f"{chain}.1", NARROW, NARROW, 3))
        x = self.add("Concat", maps, f"{name}/joined", axis=1)
        return self.swished(x, f"{name}/cv4", 2 * (WIDTH + NARROW), WIDTH)

    def encoder(self, x):
        middle = self.conv(x, "encoder/input_proj.0", BLOCKS[-1][-1], WIDTH)
        coarse = self.halved(middle, "encoder/down_sample1")
        mean = self.add("GlobalAveragePool", [coarse], "encoder/mean")
        coarse = self.add("Add", [coarse, mean], "encoder/with_mean")
        coarse = self.swished(coarse, "encoder/bi_fusion/cv", WIDTH, WIDTH)
        up = self.add("Resize", [coarse, "", "twice"], "encoder/up", mode="nearest")
        middle = self.fused(middle, up, "encoder/fpn_block")
        down = self.halved(middle, "encoder/down_sample2")
        coarse = self.fused(coarse, down, "encoder/pan_block")
        x = self.add("Transpose", [coarse], "decoder/memory", perm=[0, 2, 3, 1])
        head = "decoder/enc_score_head"
        weight = self.constant(f"{head}.weight", self.rng.normal(0, 0.3, (WIDTH, 80)))
        x = self.add("MatMul", [x, weight], f"{head}/scores")
        self.nodes[-1].name = f"/model/{head}/MatMul"
        bias = self.constant(f"{head}.bias", self.rng.normal(0, 1, 80))
        self.add("Add", [bias, x], head, "/Add")

    def write(self, file):
        pads = np.array([0, 0, 0, 0, 0, 0, 1, 1])
        self.stored = [numpy_helper.from_array(pads, "pads")]
        self.constant("twice", [1, 1, 2, 2])
        x = self.stem()
        for stage, (sizes, light) in enumerate(zip(BLOCKS, LIGHT, strict=True)):
            x = self.block(x, stage, sizes, light)
        self.encoder(x)
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
    theirs = session.run(list(ENDS), {"images": images.numpy()})
    theirs[-1] = theirs[-1].transpose(0, 3, 1, 2)[:, KNOWN]
    ours, x = [], network.model[0](images)
    for stage in network.model[1:4]:
        x = stage(x)
        ours.append(x)
    maps = network.model[4](network.maps(images))
    ours += [*maps[1:], network(images)[-1]]
    for found, wanted, missed in zip(ours, theirs, ENDS.values(), strict=True):
        difference = inner(found.numpy() - wanted)
        assert (difference**2).mean() < missed * inner(wanted).var()


def test_a_convolution_is_fitted_to_what_another_makes():
    torch.manual_seed(0)
    own, other = (torch.nn.Conv2d(4, 6, 3, 2, 1) for _ in range(2))
    x = torch.rand(2, 4, 32, 48)
    with torch.no_grad():
        assert fit(own, x, other(x)) > 0.999
        assert torch.allclose(own(x), other(x), atol=0.02)


def test_another_file_is_refused_by_name(tmp_path, file, images):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"no network")
    with pytest.raises(CompressionError, match=r"other\.onnx cannot be read"):
        Femto(other)
    model = onnx.load(file)
    mixing = next(node for node in model.graph.node if "bi_fusion/cv/conv" in node.name)
    model.graph.node.remove(mixing)
    onnx.save(model, other)
    with pytest.raises(CompressionError, match=r"other\.onnx is another network.*bi_fusion"):
        Femto(other).fill(HGNetwork(len(CLASSES)), images)


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
