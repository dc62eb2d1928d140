"""DEIMv2-Femto becomes a part of a network of ours, which learns from label files."""

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from test_distillation import DATA, SIZE, begin, frames, pictures_in, recipe, views

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")
pytest.importorskip("ultralytics", reason="needs the build tools: make compression")

from exported import assert_computes
from torch.nn import Conv2d, functional

from model_compression.distillation.femto import KNOWN, Femto, fit
from model_compression.distillation.femto_training import FemtoTrainer
from model_compression.distillation.folders import write_folders
from model_compression.distillation.hgnet import HGNetwork
from model_compression.distillation.pruning import write_pruned
from model_compression.distillation.training import STATE, save_checkpoint
from model_compression.errors import CompressionError
from model_compression.labels import CLASSES
from model_compression.model import count_gmac
from perception_nodes.networks.model import load_model

__all__ = ["frames", "views"]
FEMTO = DATA / "open/weights/deimv2_femto_416.onnx"
LAST = "blocks/blocks.0/aggregation/aggregation.1/act/Relu"
ENDS = [f"backbone/stages.{i}/{LAST}" for i in range(3)]
ENDS += ["encoder/fpn_block/cv4/act/Mul", "encoder/pan_block/cv4/act/Mul"]
"""Of the original: what its stages and its encoder make."""


def inner(x):
    """A map without its border, where the original pads with other values."""
    edge = x.shape[2] // 4
    return x[:, :, edge:-edge, edge:-edge]


@pytest.mark.skipif(not FEMTO.exists(), reason="needs DEIMv2-Femto in PERCEPTION_DATA")
@torch.no_grad()
def test_the_network_begins_as_the_original():
    shown = cv2.resize(cv2.imread(str(DATA / "bus.jpg")), (416, 416))[:, :, ::-1]
    images = torch.from_numpy(shown.transpose(2, 0, 1)[None] / np.float32(255))
    network = HGNetwork(len(CLASSES)).eval()
    assert Femto(FEMTO).fill(network, images) > 0.9
    model = onnx.load(FEMTO)
    outputs = {node.name.removeprefix("/model/"): node.output[0] for node in model.graph.node}
    names = [outputs[name] for name in (*ENDS, "decoder/enc_score_head/Add")]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    given = {"images": images.numpy(), "orig_target_sizes": np.array([[416, 416]])}
    *theirs, scores = session.run(names, given)
    stem, first, second, third, pyramid, _ = network.model
    fine = second(first(stem(images)))
    ours = [first(stem(images)), fine, third(fine), *pyramid(network.maps(images))[1:]]
    for found, wanted in zip(ours, theirs, strict=True):
        missed = inner(found.numpy() - wanted)
        assert (missed**2).mean() < 0.1 * inner(wanted).var()
    read = torch.cat([one.flatten(2) for one in network(images)[4:]], 2).numpy()
    wanted = scores[..., KNOWN].transpose(0, 2, 1)
    assert ((read - wanted) ** 2).mean() < 0.25 * wanted.var()


def test_a_convolution_is_fitted_to_what_another_makes():
    torch.manual_seed(0)
    own, other = (Conv2d(4, 6, 3, 2, 1) for _ in range(2))
    x = torch.rand(2, 4, 32, 48)
    with torch.no_grad():
        assert fit(own, x, other(x)) > 0.999
        assert torch.allclose(own(x), other(x), atol=0.02)


@pytest.fixture
def file(tmp_path):
    """A file with a convolution behind a scale and a shift."""
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(2, 3, 1, 1)), "b": rng.normal(size=2), "by": [0.7], "to": [0.3]}
    stored = [numpy_helper.from_array(np.float32(one), name) for name, one in values.items()]
    nodes = [
        helper.make_node("Relu", ["images"], ["positive"]),
        helper.make_node("Mul", ["by", "positive"], ["scaled"], "/model/a/lab/Mul"),
        helper.make_node("Add", ["scaled", "to"], ["shifted"], "/model/a/lab/Add"),
        helper.make_node("Conv", ["shifted", "w", "b"], ["y"], "/model/a/conv/Conv", group=1),
    ]
    image = helper.make_tensor_value_info("images", 1, [1, 3, 8, 8])
    output = helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph(nodes, "a", [image], [output], stored)
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "a.onnx")
    return tmp_path / "a.onnx"


@torch.no_grad()
def test_a_convolution_takes_what_stands_before_and_behind_it(file):
    images, femto = torch.rand(1, 3, 8, 8), Femto(file)
    (made,) = onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})
    wanted = torch.from_numpy(made)
    alone, of_a_sum, of_a_mean = Conv2d(3, 2, 1), Conv2d(6, 2, 1), Conv2d(3, 2, 3)
    for own in (alone, of_a_sum, of_a_mean):
        femto._give(own, "a")
    torch.testing.assert_close(alone(images), wanted)
    summands = torch.cat([images / 4, images * 3 / 4], 1)
    torch.testing.assert_close(of_a_sum(summands), wanted)
    torch.testing.assert_close(of_a_mean(images), functional.avg_pool2d(wanted, 3, 1))


def test_another_file_is_refused_by_name(tmp_path, file):
    with pytest.raises(CompressionError, match=r"a\.onnx is another network.*backbone"):
        Femto(file).fill(HGNetwork(len(CLASSES)), torch.rand(1, 3, 64, 64))
    (tmp_path / "other.onnx").write_bytes(b"no network")
    with pytest.raises(CompressionError, match=r"other\.onnx cannot be read"):
        Femto(tmp_path / "other.onnx")


class Tiny:
    """Weights that change nothing."""

    def fill(self, network, images):
        return 1.0


def test_it_learns_from_labels_goes_on_and_becomes_folders(tmp_path, frames, views):
    pictures_in(tmp_path)
    given = recipe(40, network="hgnet").model_copy(update={"data": tmp_path})
    trainer = FemtoTrainer(given, tmp_path, Tiny())
    assert begin(trainer, frames)
    stage = given.stages[0].model_copy(update={"kept": 1.0})
    losses = [sum(trainer.learn(views, stage).values()) for _ in range(40)]
    assert losses[-1] < losses[0] / 2
    trainer.save()
    again = FemtoTrainer(given, tmp_path, Tiny())
    assert again.begun and again.step == 40
    folders = write_folders(given, tmp_path / STATE, "toy", SIZE, tmp_path / "models")
    floats, small = (load_model(str(folder)) for folder in folders)
    assert tuple(floats.classes) == tuple(small.classes) == CLASSES and small.s8


def test_a_shipped_folder_begins_a_training(tmp_path):
    given, own = recipe(10**6, network="hgnet"), load_model("open-n-float")
    assert_computes(own.path, FemtoTrainer(given, tmp_path, Tiny(), own.folder).average, 1e-3)
    for name, said in (("open-n", "take .*open-n-float"), ("open-m-float", "a checkpoint")):
        with pytest.raises(CompressionError, match=said):
            FemtoTrainer(given, tmp_path, Tiny(), load_model(name).folder)


def test_a_network_is_pruned_and_learns_on(tmp_path, views):
    pictures_in(tmp_path)
    given = recipe(40, network="hgnet-short").model_copy(update={"data": tmp_path})
    whole, small = HGNetwork(len(CLASSES)), tmp_path / "small.pt"
    save_checkpoint(whole.state_dict(), 40, tmp_path / "whole.pt")
    gmac = count_gmac(whole, SIZE) / 2
    for wrong, network, named in ((gmac, "hgnet", "hgnet-short"), (9, "hgnet-short", "before")):
        other = given.model_copy(update={"network": network})
        with pytest.raises(CompressionError, match=named):
            write_pruned(other, tmp_path / "whole.pt", small, SIZE, wrong)
    write_pruned(given, tmp_path / "whole.pt", small, SIZE, gmac)
    trainer = FemtoTrainer(given, tmp_path, Tiny(), small)
    assert trainer.begun and count_gmac(trainer.average, SIZE) <= gmac
    assert all(np.isfinite(one) for one in trainer.learn(views, given.stages[0]).values())
