"""8 bits for an imported detector: by our own table or by NNCF, compared with float, or refused."""

import hashlib
import shutil
from contextlib import contextmanager
from functools import partial
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper
from scenes import write_labelled
from toy_detectors import detector, written
from typer.testing import CliRunner

from model_compression import imported
from model_compression import trial as trials
from model_compression.errors import GateRefused
from model_compression.imported import quantize_imported
from model_compression.quantizers import NncfQuantizer, TableQuantizer
from model_compression.trial import Trial
from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.cli.app import app
from perception_nodes.evaluation.datasets import read_set
from perception_nodes.evaluation.frames import FrameSource
from perception_nodes.evaluation.gate import Margins, detect
from perception_nodes.networks.model import load_model

PARENT = load_model("open-n-float")
FRAMES = 12
QUANTIZERS = {
    "the table of ranges": TableQuantizer,
    "NNCF": lambda network, frames, name: NncfQuantizer(network, frames),
}


@contextmanager
def silent(_title):
    yield lambda done, total: None


@pytest.fixture(scope="module")
def frames(root):
    source = FrameSource([root / "bags/sample"], [], PARENT.input)
    return [(name, pixels.copy()) for name, pixels in source.frames()][:: 250 // FRAMES]


@pytest.fixture
def dense(tmp_path):
    """The parent with a dense convolution, of zeros else, for each depthwise one.

    ONNX Runtime does not run what NNCF makes of these.
    """
    folder = shutil.copytree(PARENT.folder, tmp_path / PARENT.name)
    network = onnx.load(PARENT.path)
    weights = {one.name: one for one in network.graph.initializer}
    for node in network.graph.node:
        groups = next((one for one in node.attribute if one.name == "group" and one.i > 1), None)
        if groups:
            groups.i, tensor = 1, weights[node.input[1]]
            own = numpy_helper.to_array(tensor)
            whole = np.zeros((len(own), len(own), *own.shape[2:]), np.float32)
            whole[range(len(own)), range(len(own))] = own[:, 0]
            tensor.CopyFrom(numpy_helper.from_array(whole, tensor.name))
    onnx.save(network, folder / PARENT.file)
    description = yaml.safe_load((folder / "model.yaml").read_text())
    description["sha256"] = hashlib.sha256((folder / PARENT.file).read_bytes()).hexdigest()
    (folder / "model.yaml").write_text(yaml.safe_dump(description))
    return load_model(str(folder))


def trial(frames, parent=PARENT, **margins):
    return Trial(parent, frames, [], Margins(**margins), silent)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_8_bit_network_sees_what_the_float_one_sees(
    name, dense, frames, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("nncf", reason="needs the build tools: make compression")
    parent = dense if name == "NNCF" else PARENT
    monkeypatch.setattr(imported, "quantizer_for", QUANTIZERS[name])
    said: list[str] = []
    judged = trial(frames, parent, agreement=0.85)
    quantize_imported(parent, tmp_path / "eight", judged, said.append, "CC0")
    assert any(name in line for line in said)
    assert capsys.readouterr().out == ""  # which is for results
    model = load_model(str(tmp_path / "eight"))
    assert (model.precision, model.parent) == ("int8", PARENT.name)
    description = yaml.safe_load((model.folder / "model.yaml").read_text())
    assert description["quantization"]["calibration_sources"] == {"sample": len(frames)}
    assert description["data"][-1] == {"name": "sample (ranges of 8-bit values)", "license": "CC0"}
    assert [node.op_type for node in onnx.load(model.path).graph.node].count("QuantizeLinear") > 40
    for runtime in ("openvino", "onnxruntime"):
        backend = open_backend(runtime, BackendSettings())
        backend.load(model)
        seen = [level.max() for _, frame in frames for level in backend.infer(frame).classes]
        assert max(seen) > 0


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_layer_that_suffers_most_is_named_first(name, frames):
    """One weight far larger than the others leaves these a few codes."""
    pytest.importorskip("nncf", reason="needs the build tools: make compression")
    network = onnx.load(PARENT.path)
    victim = [node for node in network.graph.node if node.op_type == "Conv"][3]
    tensor = next(t for t in network.graph.initializer if t.name == victim.input[1])
    weights = numpy_helper.to_array(tensor).copy()
    weights[:, 0, 0, 0] += 40 * np.abs(weights).max()
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    costs = QUANTIZERS[name](network, frames, "it").costs(lambda done, total: None)
    assert victim.name in list(costs)[:3]


def test_a_network_that_finds_nothing_in_8_bits_is_refused(frames, tmp_path, monkeypatch):
    class Blind(TableQuantizer):
        def quantize(self, kept):
            eight = super().quantize(kept)
            for tensor in eight.files["u8"].graph.initializer:
                if tensor.name.endswith("_scale") and not tensor.dims:
                    low = numpy_helper.to_array(tensor) / 100
                    tensor.CopyFrom(numpy_helper.from_array(low, tensor.name))
            return eight

        def costs(self, progress):
            return {"one": 1.0}

    monkeypatch.setattr(imported, "quantizer_for", Blind)
    monkeypatch.setattr(imported, "KEPT_FLOAT", (0,))
    with pytest.raises(GateRefused, match="8 bits leave nothing of it|is sure of 0 objects"):
        quantize_imported(PARENT, tmp_path / "eight", trial(frames), lambda line: None)


def test_layers_are_kept_float_until_it_is_enough(frames, tmp_path, monkeypatch):
    tried: list[int] = []

    class Counting(TableQuantizer):
        def quantize(self, kept):
            tried.append(len(kept))
            return super().quantize(())

        def costs(self, progress):
            return {f"layer {number}": 1.0 / (1 + number) for number in range(20)}

    judged = partial(trials.GateCheck, "float", "share", 0.5, 0.8)
    checks = [judged(refusal=said) for said in ("too little", "too little", "")]
    monkeypatch.setattr(imported, "quantizer_for", Counting)
    monkeypatch.setattr(trials, "check_agreement", Mock(side_effect=checks))
    quantize_imported(PARENT, tmp_path / "eight", trial(frames), lambda line: None)
    assert tried == [0, 2, 4]


def test_labels_are_compared_and_kept_with_both_models(frames, tmp_path):
    """Labels made of what the float network finds."""
    parent = load_model(str(shutil.copytree(PARENT.folder, tmp_path / PARENT.name)))
    backend = open_backend("openvino", BackendSettings())
    backend.load(parent)
    pixels = [frame for _, frame in frames]
    size = np.array([parent.input.width, parent.input.height] * 2)
    for number, found in enumerate(detect(parent, backend, pixels)):
        corners = np.clip(found.boxes / size, 0, 1)
        boxes = np.hstack([corners[:, :2] + corners[:, 2:], 2 * (corners[:, 2:] - corners[:, :2])])
        lines = [
            " ".join(map(str, [label, *box / 2]))
            for label, box in zip(found.classes.tolist(), boxes, strict=True)
        ]
        write_labelled(tmp_path / "set", f"{number}.png", lines, pixels[number])
    (tmp_path / "set/classes.txt").write_text("\n".join(parent.classes))
    backend.close()
    sets, margins = [read_set(tmp_path / "set")], Margins(loss=0.3, class_loss=1.0)
    tried = Trial(parent, frames, sets, margins, silent)
    checks = quantize_imported(parent, tmp_path / "eight", tried, lambda line: None)
    assert any("AP50 or recall of" in check.measure for check in checks)
    for model in (parent, load_model(str(tmp_path / "eight"))):
        description = yaml.safe_load((model.folder / "model.yaml").read_text())
        (facts,) = description["accuracy"].values()
        assert facts["images"] == len(frames)
        assert "stop sign" in description["without_evidence"]


def command(*arguments):
    result = CliRunner().invoke(app, ["model", "import", *map(str, arguments)])
    return result.exit_code, str(result.exception) if result.exception else result.output


def test_frames_are_asked_for_before_anything_is_read(tmp_path):
    said = command(tmp_path / "missing.onnx", "--int8", "--out", tmp_path / "models")[1]
    assert "--int8 needs frames" in said
    said = command(tmp_path / "missing.onnx", "--data", tmp_path, "--out", tmp_path / "m")[1]
    assert "--data is for --int8" in said
    assert not list(tmp_path.iterdir())


def test_the_command_leaves_nothing_of_a_refused_model(root, tmp_path):
    """An untrained network sees nothing, so there is nothing to compare."""
    rows = np.full((1, 6, 126), 1e-3, np.float32)
    rows[:, 2:4] = 10.5
    path = written(detector({"output0": rows}), tmp_path / "it.onnx")
    out = tmp_path / "models"
    options = ["--classes", "a,b", "--int8", "--bag", root / "bags/sample", "--frames", 8]
    status, said = command(path, "--out", out, *options, "--json")
    assert status == 1 and "finds nothing in 8 frames" in said
    assert not out.exists()
