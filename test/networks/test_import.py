"""Files that cannot be imported: one line each, and nothing is written."""

import errno
import hashlib
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import onnx
import openvino
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from refused import refused
from toy_detectors import GREY, cells, detector, written
from typer.testing import CliRunner

from perception_nodes.cli.app import app
from perception_nodes.cli.common import screen
from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.frame import Detections
from perception_nodes.evaluation.model_import import objects_in
from perception_nodes.networks import two_runtimes
from perception_nodes.networks.importer import ImportOptions, understand
from perception_nodes.networks.model import ModelError, ModelRefused, load_model

STRIDES = (8, 16, 32)
NAMES = ["car", "bus", "truck"]


def grid():
    rows = np.full((1, 7, cells(*STRIDES)), 0.5, np.float32)
    rows[:, :4] = 20.5
    return {"output0": rows}


def custom(network):
    network.graph.node[-1].domain = "com.example"
    network.opset_import.add(domain="com.example", version=1)


def broken(network):
    tensor = network.graph.initializer[0]
    values = np.full(tensor.dims, np.nan, np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def outside(network):
    tensor = network.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.data")


def two_images(network):
    network.graph.input.add().CopyFrom(network.graph.input[0])
    network.graph.input[1].name = "depth"


def channels_last(network):
    dims = network.graph.input[0].type.tensor_type.shape.dim
    dims[1].dim_value, dims[3].dim_value = 64, 3


def short(network):
    tensor = network.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[:-4]


def unfit(network):
    network.graph.node[0].input[0] = "nothing"


def open_batch_and_rows(network):
    dims = network.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_value = dims[2].dim_value = -1


@pytest.fixture
def toy(tmp_path):
    return written(detector(grid()), tmp_path / "it.onnx")


def understood(network, folder, **options):
    path = written(network, folder / "it.onnx")
    return understand(path, ImportOptions(classes=NAMES, **options))


FAULTS = {
    custom: "has custom operators (com.example.Add)",
    broken: "are not whole, or not finite",
    outside: "keeps its weights in weights.data, which cannot be read beside it",
    two_images: "a detector has one image",
    channels_last: "is not float32 [1, 3, height, width]",
    unfit: "ONNX Runtime refuses it",
    open_batch_and_rows: "leaves the size of its input open",
    short: "are not whole, or not finite",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_cannot_be_used_is_told_in_one_line(fault, tmp_path):
    network = detector(grid())
    fault(network)
    assert FAULTS[fault] in refused(ModelError, understood, network, tmp_path)


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"opset": 6}, "has opset 6; 7 to"),
        ({"facts": {"task": "classify"}}, "is a network for 'classify', which finds no boxes"),
        ({"facts": {"task": "segment"}}, "nearest is ultralytics .* its metadata says segment"),
        ({"size": ("w", "h")}, "leaves the size of its input open; give --size"),
        ({"size": ("w", "h"), "facts": {"imgsz": 5000 * "-" + "1"}}, "leaves the size of"),
    ],
)
def test_other_exports_that_cannot_be_used(changes, text, tmp_path):
    with pytest.raises(ModelError, match=text):
        understood(detector(grid(), **changes), tmp_path)


def test_a_dynamic_network_takes_the_size_that_is_given(tmp_path):
    network = detector(grid(), size=("w", "h"))
    source = understood(network, tmp_path, size=(96, 64)).exported
    assert (source.width, source.height) == (96, 64)
    with pytest.raises(ModelError, match="takes 96x64 only, not 64x64"):
        understood(detector(grid()), tmp_path, size=(64, 64))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("it.onnx", b"", "it.onnx has no network"),
        ("it.onnx", b"not a network", "it.onnx is not a whole ONNX file; export or copy it again"),
        ("it.param", b"7767517\n1 1\n", r"\.xml with its \.bin.*model_compression\.ncnn"),
        ("it.tflite", b"7767517\n1 1\n", "it.tflite in .* no whole model"),
    ],
)
def test_what_is_no_network_is_refused(name, content, text, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=text):
        understand(tmp_path / name, ImportOptions())


@pytest.mark.parametrize("ending", [".onnx", ".xml"])
def test_a_size_that_a_network_cannot_have_is_told_with_those_that_it_can(ending, tmp_path):
    network = detector(grid(), size=("w", "h"))
    # The join of a map with itself after a way down and up, which rounds.
    nodes = [
        helper.make_node("MaxPool", ["images"], ["down"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["down", "", "scales"], ["up"]),
        helper.make_node("Concat", ["images", "up"], ["joined"], axis=1),
        helper.make_node("Conv", ["joined", "wide"], ["t1"]),
    ]
    del network.graph.node[0]
    for place, node in enumerate(nodes):
        network.graph.node.insert(place, node)
    wide, scales = np.tile(GREY, 2).reshape(1, 6, 1, 1), np.array([1, 1, 2, 2], np.float32)
    network.graph.initializer.append(numpy_helper.from_array(wide, "wide"))
    network.graph.initializer.append(numpy_helper.from_array(scales, "scales"))
    path = written(network, tmp_path / f"it{ending}")
    with pytest.raises(ModelError, match="give another --size, in multiples of 32"):
        understand(path, ImportOptions(classes=NAMES, size=(95, 63)))


def command(*arguments: object, status: int) -> str:
    result = CliRunner().invoke(app, ["model", "import", *map(str, arguments)])
    assert result.exit_code == (status if not result.exception else 1), result.output
    if status == 2:
        assert isinstance(result.exception, PerceptionError)
        return str(result.exception)
    return result.stdout


def test_the_command_writes_a_model_once(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    said = json.loads(command(toy, "--out", out, "--classes", "car,bus,truck", "--json", status=0))
    assert (said["head"], said["input"], said["classes"]) == ("ultralytics", "96x64", NAMES)
    assert sorted(p.name for p in (out / "it").iterdir()) == ["it.float.onnx", "model.yaml"]
    assert "is there already" in command(toy, "--out", out, "--classes", "a,b,c", status=2)
    assert [p.name for p in out.iterdir()] == ["it"]


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--size", "big"], "--size 'big' is not of the form"),
        (["--std", "0"], "--std '0' is not"),
        (["--mean", "1,nan,1"], "--mean '1,nan,1' is not"),
        (["--classes", "missing.txt"], "--classes 'missing.txt' is neither"),
        (["--classes", "pyproject.toml,a,README.yaml"], "README.yaml' is neither"),
        (["--classes", "car"], "has 3 classes by its outputs"),
        (["--name", "a/b"], "'a/b' cannot name a model"),
    ],
)
def test_a_wrong_option_writes_nothing(arguments, text, toy, tmp_path):
    assert text in command(toy, "--out", tmp_path / "models", *arguments, status=2)
    assert not (tmp_path / "models").exists()


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "perception_nodes.evaluation.model_import", None)
    said = command(tmp_path / "it.onnx", "--out", tmp_path / "models", status=2)
    assert "pip install onnx" in said


def test_a_damaged_network_is_not_taken_on_trust(tmp_path, root):
    """One whose weights are zero, and one that finds nothing."""
    out, frames = tmp_path / "models", ["--bag", root / "bags/sample", "--frames", 8]
    options = ["--out", out, "--classes", "a,b,c"]
    dead = written(detector(grid(), grey=np.zeros(3, np.float32)), tmp_path / "dead.onnx")
    assert "1 convolutions are all zero" in command(dead, *options, status=2)
    assert not out.exists()
    rows = grid()["output0"]
    rows[:, 4:] = 0.1
    blind = written(detector({"output0": rows}), tmp_path / "blind.onnx")
    command(blind, *options, *frames, status=1)
    assert not out.exists()
    rows[:, 4] = 0.5
    command(written(detector({"output0": rows}), blind), *options, *frames, status=0)
    assert [path.name for path in out.iterdir()] == ["blind"]


def test_of_two_imports_of_one_name_the_slower_is_refused(toy, tmp_path, monkeypatch):
    out = tmp_path / "models"

    def meanwhile(*_):
        (out / "it").mkdir()
        (out / "it/model.yaml").write_text("of the other")

    monkeypatch.setattr("perception_nodes.networks.importer.check_runs", meanwhile)
    said = command(toy, "--out", out, "--classes", "a,b,c", status=2)
    assert f"{out / 'it'} is there already; give another --name" in said
    assert [one.name for one in out.iterdir()] == ["it"]
    assert (out / "it/model.yaml").read_text() == "of the other"


def test_a_full_disk_is_told_with_the_folder(toy, tmp_path, monkeypatch):
    full = Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr("perception_nodes.networks.importer.check_runs", full)
    out = tmp_path / "models"
    said = command(toy, "--out", out, "--classes", "a,b,c", status=2)
    assert f"--out {out} cannot be written: No space left on device" in said
    assert not out.exists()


def test_a_tensor_of_our_name_is_told(tmp_path):
    network = detector(grid())
    for node in network.graph.node:
        for names in (node.input, node.output):
            names[:] = ["image" if name == "t1" else name for name in names]
    with pytest.raises(ModelError, match=r"'image' has been used .* has their name, rename it"):
        understood(network, tmp_path)


@pytest.mark.parametrize(
    ("facts", "padding", "said"),
    [
        (None, None, "assumed, as usual for its head: --color RGB --mean 0,0,0 --std 255,255,255"),
        ({"made_by": "train.py"}, None, "says nothing: assumed, as usual for its head: --color"),
        (None, 0, "says nothing: given --padding 0; assumed, as usual for its head: --color RGB"),
        ({"author": "Ultralytics"}, None, ""),
    ],
)
def test_what_is_assumed_of_the_pixels_is_told(facts, padding, said, tmp_path):
    told = understood(detector(grid(), facts=facts), tmp_path, padding=padding).notes
    notes = [note for note in told if note.startswith("of its pixels")]
    assert len(notes) == bool(said) and said in "".join(notes)


def of_detr(boxes):
    few = np.array(boxes, np.float32) + np.linspace(0, 0.2, 9, dtype=np.float32)[:, None]
    scores = np.full((1, 9), 0.5, np.float32)
    return {"labels": np.ones((1, 9), np.int64), "boxes": few[None], "scores": scores}


def of_grid(boxes):
    rows = grid()
    rows["output0"][:, :4] = np.array(boxes)[:, None]
    return rows


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (of_detr([0.1, 0.2, 0.5, 0.7]), "nearest is detr (RT-DETR, D-FINE or DEIM: labels, boxes"),
        (of_grid([0.3, 0.4, 0.2, 0.2]), ""),  # of which shares are read
        (of_detr([60, 40, 20, 10]), "it lacks 'corners'"),
        (of_detr([10, 20, 40, 60]), ""),
    ],
)
def test_boxes_that_are_no_corners_in_pixels_are_refused(outputs, text, tmp_path):
    path = written(detector(outputs, grey=GREY / 100), tmp_path / "it.onnx")
    out = tmp_path / "models"
    said = command(path, "--out", out, "--classes", "a,b,c", status=2 if text else 0)
    assert text in said and (out / "it").exists() == (not text)


@pytest.mark.parametrize(
    ("dead", "step_px", "refused"), [(True, 0.1, True), (True, 5, False), (False, 0.1, False)]
)
def test_a_network_with_dead_layers_has_to_see_what_changes(dead, step_px, refused):
    boxes = np.array([[10, 10, 20, 20]], np.float32)
    sure = np.ones(1, np.float32), np.zeros(1, int)
    found = [Detections(boxes + i * step_px, *sure) for i in range(3)]
    model = SimpleNamespace(name="it", classes=["car"])
    if refused:
        with pytest.raises(ModelRefused, match="finds the same in all 3 frames"):
            objects_in(model, found, dead)
    else:
        assert objects_in(model, found, dead) == "3 car"


def test_a_list_of_names_may_be_long(toy, tmp_path):
    names = [letter * 120 for letter in "abc"]
    command(toy, "--out", tmp_path / "m", "--classes", ",".join(names), status=0)
    assert load_model(str(tmp_path / "m/it")).classes == names


def test_a_checkpoint_is_the_file_that_is_named(toy, tmp_path, monkeypatch):
    """And not the ONNX file that was made of it, which nobody has."""
    tool = "perception_nodes.evaluation.model_import.compression_tool"
    monkeypatch.setattr(tool, lambda *names: lambda file, size, folder: toy)
    checkpoint = tmp_path / "IT.PT"
    checkpoint.write_bytes(b"a checkpoint")
    options = [checkpoint, "--out", tmp_path / "m", "--classes", "a,b,c"]
    assert "give --trust to let it" in command(*options, status=2)
    assert str(checkpoint) in command(*options, "--trust", "--keep", "d", status=2)
    command(*options, "--trust", status=0)
    monkeypatch.setattr(screen, "_force_terminal", True)
    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("perception_nodes.cli.import_model.sys", terminal)
    command(*options, "--name", "other", status=1)  # nobody says that its program may run
    facts = yaml.safe_load((tmp_path / "m/IT/model.yaml").read_text())["imported"]
    assert facts["file"] == "IT.PT"
    assert facts["sha256"] == hashlib.sha256(b"a checkpoint").hexdigest()


def test_suffixes_may_be_in_capitals(tmp_path):
    said = command(tmp_path / "NEW.XML", "--int8", "--images", tmp_path, status=2)
    assert "--int8 needs the detector as ONNX" in said


@pytest.fixture
def openvino_files(tmp_path: Path) -> Path:
    return written(detector(grid()), tmp_path / "it.xml")


def test_every_file_of_an_openvino_model_is_hashed(openvino_files, tmp_path):
    said = command(openvino_files, "--out", tmp_path / "m", "--classes", "a,b,c", status=0)
    model = load_model(str(tmp_path / "m/it"))
    assert said == "" and model.weights is not None
    weights = model.folder / model.weights.file
    content = bytearray(weights.read_bytes())
    content[-64:] = bytes(64)
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="it.float.bin has sha256"):
        load_model(str(tmp_path / "m/it"))


@pytest.mark.parametrize("name", ["it.xml", "it.bin"])
@pytest.mark.parametrize("length", [None, 0, 50])
def test_openvino_files_that_are_not_whole_are_refused(name, length, openvino_files):
    file = openvino_files.with_name(name)
    if length is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ModelError, match="is not there|no whole model") as caught:
        understand(openvino_files, ImportOptions(classes=NAMES))
    assert "\n" not in str(caught.value)


def halved(network):
    """The network in float16, inside and at its ends, with a cast that stays one."""
    half = onnx.ModelProto()
    half.CopyFrom(network)
    for tensor in half.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    last = half.graph.node[-1]
    cast = helper.make_node("Cast", ["uncast"], [last.output[0]], to=TensorProto.FLOAT16)
    last.output[0] = "uncast"
    half.graph.node.append(cast)
    return half


def rounded(network):
    """The network in float32, of weights that float16 can hold."""
    for tensor in network.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            exact = values.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(exact, tensor.name))
    return network


def answers(path, **options):
    return understand(path, ImportOptions(classes=NAMES, **options)).exported.answer["output0"]


def test_half_precision_is_widened_and_computes_the_same(tmp_path):
    network = rounded(detector(grid()))
    wanted = answers(written(network, tmp_path / "wide.onnx"))
    path = written(halved(network), tmp_path / "half.onnx")
    np.testing.assert_array_equal(answers(path), wanted)
    compressed = tmp_path / "compressed.xml"
    read = openvino.Core().read_model(written(network, path))
    openvino.save_model(read, compressed, compress_to_fp16=True)
    np.testing.assert_allclose(answers(compressed), wanted, rtol=1e-4)


@pytest.mark.parametrize("opset", [7, 8, 9, 10])
def test_old_opsets_are_converted(opset, tmp_path):
    wanted = answers(written(detector(grid()), tmp_path / "new.onnx"))
    path = written(detector(grid(), opset=opset), tmp_path / "old.onnx")
    np.testing.assert_allclose(answers(path), wanted, rtol=1e-6)


def test_weights_in_another_file_are_loaded(tmp_path):
    network = detector(grid())
    wanted = answers(written(network, tmp_path / "one.onnx"))
    options = {"save_as_external_data": True, "location": "it.data", "size_threshold": 0}
    onnx.save(network, tmp_path / "it.onnx", **options)
    np.testing.assert_array_equal(answers(tmp_path / "it.onnx"), wanted)
    out = tmp_path / "models"
    command(tmp_path / "it.onnx", "--out", out, "--classes", "a,b,c", status=0)
    assert load_model(str(out / "it")).weights is None


def test_a_folder_of_an_export_is_its_network(openvino_files, tmp_path):
    folder = tmp_path / "it_openvino_model"
    folder.mkdir()
    for file in (openvino_files, openvino_files.with_suffix(".bin")):
        file.rename(folder / file.name)
    command(folder, "--out", tmp_path / "m", "--classes", "a,b,c", status=0)
    assert load_model(str(tmp_path / "m/it")).weights is not None
    written(detector(grid()), folder / "other.onnx")
    said = command(folder, "--out", tmp_path / "m", status=2)
    assert "should hold one network" in said and "it.xml, other.onnx" in said


def test_a_quantized_network_runs_as_it_is_and_not_twice(tmp_path, root):
    network = detector(grid())
    graph = network.graph
    for name, value in (("step", np.float32(0.01)), ("zero", np.uint8(128))):
        graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    graph.node[0].input[0] = "rounded"
    pairs = [("QuantizeLinear", "images", "codes"), ("DequantizeLinear", "codes", "rounded")]
    for place, (kind, read, made) in enumerate(pairs):
        graph.node.insert(place, helper.make_node(kind, [read, "step", "zero"], [made]))
    path = written(network, tmp_path / "it.onnx")
    options = ["--out", tmp_path, "--classes", "a,b,c", "--name", "eight"]
    frames = ["--int8", "--bag", root / "bags/sample", "--frames", 8]
    assert "quantized already; leave --int8 out" in command(path, *options, *frames, status=2)
    command(path, *options, status=0)
    assert load_model(str(tmp_path / "eight")).precision == "int8"


@pytest.mark.parametrize(("size", "said"), [(640, "--size 416x256 --int8"), (416, "`--int8`")])
def test_what_is_too_slow_is_told_with_its_remedy(size, said, monkeypatch):
    told, image = [], SimpleNamespace(width=size, height=256)
    monkeypatch.setattr(two_runtimes, "repeat", lambda call, **_: [0.029])
    model = SimpleNamespace(input=image, precision="fp32", file="a.onnx")
    two_runtimes.tell_if_slow(model, lambda *_: nullcontext(), told.append)
    assert told[0].startswith("29 ms here; deadline 10:") and said in told[0]
    assert "deadline_ms:=60" in told[0]
    monkeypatch.setattr(two_runtimes, "repeat", lambda call, **_: [0.001])
    two_runtimes.tell_if_slow(model, lambda *_: nullcontext(), told.append)
    assert len(told) == 1


def test_the_plugin_of_tensorrt_is_cut_off(tmp_path):
    corners = np.sort(np.random.default_rng(0).uniform(1, 60, (1, 9, 2, 2)), axis=2)
    outputs = {
        "boxes": corners.reshape(1, 9, 4).astype(np.float32),
        "scores": np.random.default_rng(1).uniform(0.1, 0.8, (1, 9, 3)).astype(np.float32),
    }
    network = detector(outputs)
    network.opset_import.add(domain="TRT", version=1)
    names = ["num_dets", "det_boxes", "det_scores", "det_classes"]
    plugin = helper.make_node("EfficientNMS_TRT", [*outputs], names, domain="TRT")
    network.graph.node.append(plugin)
    del network.graph.output[:]
    for name in names:
        network.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    imported = understood(network, tmp_path)
    assert (imported.head.name, imported.made.outputs["suppressed"]) == ("boxes-scores", False)
