"""Tables of ranges, both dialects, the way back to float, and what storing a layer costs."""

import hashlib
import json
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper
from refused import refused
from toys import HEIGHT, WIDTH, toy, toy_frames, toy_in_8_bits

from model_compression.errors import CompressionError
from model_compression.quantization import (
    calibrate,
    emit,
    float_of,
    measure,
    read_table,
    write_table,
)
from model_compression.quantization.emit import float_convolutions
from model_compression.quantization.graph import read_layout, weights_of
from model_compression.quantization.ranges import BINS, METHODS, choose_amax
from model_compression.quantization.sources import calibrated_on
from model_compression.quantization.stored import stored_costs
from model_compression.quantization.weights import SCALE_BITS, round_weight, weight_scale
from perception_nodes.networks.model import load_model

ACTIVATIONS = ("HardSwish", "Relu", "SiLU")


@pytest.fixture(scope="module", params=ACTIVATIONS)
def model(request):
    return toy(request.param)


@pytest.fixture(scope="module")
def table(model):
    return measure(model, toy_frames(), "toy")


refusal = partial(refused, CompressionError)


class TestLayout:
    def test_blocks_hold_what_one_kernel_computes(self, model):
        blocks = {block.name: block for block in read_layout(model).blocks}
        assert blocks["inner"].residual == "b1"
        assert blocks["inner"].output == "sum_out"
        assert blocks["stem"].output == "stem.act_out"
        assert blocks["box.last"].output == "box_8"

    def test_tensors_that_meet_share_a_scale(self, model):
        groups = {frozenset(group) for group in read_layout(model).groups}
        assert {"enter.act_out", "sum_out"} in groups
        assert {"mix.act_out", "down.act_out"} in groups
        assert {"leave.act_out"} in groups

    def test_an_operator_that_cannot_be_quantized_is_named(self):
        model = toy()
        next(node for node in model.graph.node if node.name == "pool").op_type = "AveragePool"
        assert "AveragePool of node 'pool'" in refusal(read_layout, model)

    def test_a_quantized_file_is_told_apart(self, model, table):
        assert "float_of" in refusal(read_layout, emit(model, table, "u8"))


class TestTable:
    def test_survives_the_disk(self, table, tmp_path):
        write_table(table, tmp_path / "int8/toy.yaml")
        assert read_table(tmp_path / "int8/toy.yaml") == table
        assert [path.name for path in (tmp_path / "int8").iterdir()] == ["toy.yaml"]

    def test_tells_what_it_was_measured_on(self, table):
        frames = dict(toy_frames())
        assert [frame.source for frame in table.frames] == list(frames)
        for frame in table.frames:
            assert frame.sha256 == hashlib.sha256(frames[frame.source].tobytes()).hexdigest()

    @pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf"), "wide", None])
    def test_a_range_that_cannot_be_is_refused(self, table, tmp_path, value):
        content = table.model_dump(mode="json")
        content["ranges"][1]["amax"] = value
        (tmp_path / "t.yaml").write_text(yaml.safe_dump(content))
        text = refusal(read_table, tmp_path / "t.yaml")
        assert "ranges.1.amax" in text
        assert repr(value) in text

    @pytest.mark.parametrize("content", ["", "[1]", "a: b: c", "\0", "model: toy"])
    def test_what_is_no_table_is_refused(self, tmp_path, content):
        (tmp_path / "t.yaml").write_text(content)
        assert str(tmp_path / "t.yaml") in refusal(read_table, tmp_path / "t.yaml")

    def test_a_table_that_does_not_fit_the_model_is_refused(self, model, table):
        first, *rest = table.ranges
        renamed = first.model_copy(update={"tensors": ("nonesuch",)})
        shared = next(part for part in table.ranges if len(part.tensors) > 1)
        apart = [shared.model_copy(update={"tensors": (name,)}) for name in shared.tensors]
        others = [part for part in table.ranges if part is not shared]
        for ranges, said in (
            ([renamed, *rest], "'nonesuch'"),
            (rest, f"lacks the range of {first.tensors[0]!r}"),
            ([*table.ranges, first], "twice"),
            ([*others, *apart], "Concat"),
        ):
            changed = table.model_copy(update={"ranges": tuple(ranges)})
            assert said in refusal(changed.check, model)
        changed = table.model_copy(update={"float_convolutions": ("nonesuch",)})
        assert "'nonesuch'" in refusal(changed.check, model)

    def test_another_models_table_is_refused(self, table):
        text = refusal(emit, toy(seed=1), table, "u8")
        assert table.weights_sha256[:12] in text
        assert "calibrate again" in text


class TestMeasure:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda frames: frames[:7], "7 distinct calibration frames"),
            (lambda frames: frames[:4] * 5, "4 distinct calibration frames"),
            (lambda frames: [*frames, ("dark", 0 * frames[0][1])], "'dark' shows nothing"),
            (lambda frames: [*frames, ("large", np.zeros((8, 8, 3), np.uint8))], r"\[8, 8, 3\]"),
            (lambda frames: [(n, f.astype(np.float32)) for n, f in frames], "float32"),
        ],
    )
    def test_frames_that_show_too_little_are_refused(self, model, change, words):
        with pytest.raises(CompressionError, match=words):
            measure(model, change(list(toy_frames())), "toy")

    def test_weights_that_are_not_numbers_are_found(self):
        model = toy()
        bias = next(t for t in model.graph.initializer if t.name == "enter.bias")
        bias.CopyFrom(numpy_helper.from_array(np.full(8, np.nan, np.float32), bias.name))
        assert "'enter.act_out' is not finite" in refusal(measure, model, toy_frames(), "toy")

    def test_the_greatest_value_is_the_tables_under_max(self, model):
        table = measure(model, toy_frames(), "toy", method="max")
        probed = onnx.ModelProto()
        probed.CopyFrom(model)
        probed.graph.output.append(onnx.helper.make_empty_tensor_value_info("leave.act_out"))
        session = onnxruntime.InferenceSession(probed.SerializeToString())
        values = [session.run(["leave.act_out"], {"image": f[None]})[0] for _, f in toy_frames()]
        assert table.amax["leave.act_out"] == pytest.approx(np.abs(values).max(), rel=1e-5)

    @pytest.mark.parametrize("method", METHODS)
    def test_a_lone_outlier_moves_only_the_maximum(self, method):
        counts = np.zeros(BINS, np.int64)
        counts[: BINS // 4] = 1000
        counts[-1] = 1
        amax = choose_amax(counts, 8.0, method)
        assert amax == 8.0 if method == "max" else 1.8 < amax < 3


class TestEmit:
    def test_gives_back_itself_with_float_convolutions(self, model):
        kept = ("stem", "box.last")
        table = measure(model, toy_frames(), "toy", float_convolutions=kept)
        file = emit(model, table, "u8")
        assert float_convolutions(file) == kept
        assert emit(float_of(file), table, "u8").SerializeToString() == file.SerializeToString()
        emit(model, table, "s8")

    @settings(max_examples=30)
    @given(st.integers(0, 10_000), st.sampled_from(ACTIVATIONS), st.integers(4, 8))
    def test_any_weights_come_back(self, seed, activation, bits):
        model = toy(activation, seed)
        table = measure(model, toy_frames(), "toy", method="max", weight_bits=bits)
        file = emit(model, table, "u8")
        assert emit(float_of(file), table, "u8").SerializeToString() == file.SerializeToString()

    def test_the_float_graph_of_a_file_takes_a_new_table(self, model, table):
        back = float_of(emit(model, table, "u8"))
        new = measure(back, toy_frames(20, seed=5), "toy")
        assert new.weights_sha256 == table.weights_sha256
        emit(back, new, "s8")

    @pytest.mark.parametrize("step", [1 / 255, 1.0, 1 / 57])
    def test_the_dialects_give_the_same_outputs(self, model, step):
        network = onnx.ModelProto()
        network.CopyFrom(model)
        tensors = {tensor.name: tensor for tensor in network.graph.initializer}
        tensors["image_scale"].CopyFrom(numpy_helper.from_array(np.float32(step), "image_scale"))
        weight = numpy_helper.to_array(tensors["stem.weight"]) / np.float32(255 * step)
        tensors["stem.weight"].CopyFrom(numpy_helper.from_array(weight, "stem.weight"))
        table = measure(network, toy_frames(), "toy")
        files = [emit(network, table, dialect) for dialect in ("u8", "s8")]
        sessions = [onnxruntime.InferenceSession(file.SerializeToString()) for file in files]
        frames = [frame for _, frame in toy_frames(3, seed=7)]
        for frame in [*frames, np.zeros_like(frames[0]), np.full_like(frames[0], 255)]:
            unsigned, signed = (s.run(None, {"image": frame[None]}) for s in sessions)
            for a, b, amax in zip(unsigned, signed, table.outputs.values(), strict=True):
                # Rounding may fall to the other side where the sums' last bits differ.
                assert np.abs(a - b).max() <= 3 * amax / 127

    def test_s8_is_what_tensorrt_takes(self, model, table):
        file = emit(model, table, "s8")
        tensors = weights_of(file)
        for node in file.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                zero_point = tensors[node.input[2]]
                assert zero_point.dtype == np.int8
                assert not zero_point.any()

    def test_u8_and_s8_have_the_same_steps(self, model, table):
        unsigned, signed = (weights_of(emit(model, table, dialect)) for dialect in ("u8", "s8"))
        for name, amax in table.amax.items():
            assert unsigned[f"{name}_scale"] == signed[f"{name}_scale"] == np.float32(amax / 127)
            assert unsigned[f"{name}_zero_point"] == 128

    def test_notes_what_the_integer_network_needs(self, model, table):
        facts = {p.key: json.loads(p.value) for p in emit(model, table, "u8").metadata_props}
        assert facts["dialect"] == "u8"
        assert facts["output_amax"] == table.outputs
        assert facts["scheme"].startswith("symmetric")

    def test_the_float_graph_of_an_s8_file_is_refused(self, model, table):
        assert "u8 file" in refusal(float_of, emit(model, table, "s8"))


values = st.floats(-(2.0**20), 2.0**20, width=32, allow_nan=False)
weights = arrays(np.float32, (3, 2, 1, 1), elements=values)
biases = arrays(np.float32, 3, elements=st.floats(-1000, 1000, width=32))


class TestWeights:
    @given(weights, biases, st.integers(4, 8))
    def test_rounding_twice_is_rounding_once(self, weight, bias, bits):
        scale = weight_scale(weight, bias, bits)
        codes = round_weight(weight, scale)
        rounded = codes * scale[:, None, None, None]
        assert rounded.dtype == np.float32
        np.testing.assert_array_equal(weight_scale(rounded, bias, bits), scale)
        np.testing.assert_array_equal(round_weight(rounded, scale), codes)

    @given(weights, biases, st.integers(4, 8))
    def test_codes_and_scales_keep_their_bits(self, weight, bias, bits):
        scale = weight_scale(weight, bias, bits)
        codes = round_weight(weight, scale)
        assert np.abs(codes.astype(int)).max() <= 2 ** (bits - 1) - 1
        mantissa = np.ldexp(np.frexp(scale)[0], SCALE_BITS)
        np.testing.assert_array_equal(mantissa, np.rint(mantissa))
        assert scale.max() <= 64.01 * scale.min()
        assert np.all(np.abs(bias) / scale < 2**21)
        error = np.abs(weight - codes * scale[:, None, None, None].astype(np.float64))
        assert np.all(error <= 0.51 * scale[:, None, None, None])


def change(folder, **facts):
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | facts))


def test_calibration_frames_are_counted_by_where_they_are_from():
    frames = [(name, np.full((2, 2), n)) for n, name in enumerate(("yard/a/0.png", "drive:7"))]
    facts, data = calibrated_on(frames, "CC0", ["in words"])
    assert facts["calibration_sources"] == {"yard": 1, "drive": 1}
    assert data[:2] == ["in words", {"name": "yard (ranges of 8-bit values)", "license": "CC0"}]
    other, _ = calibrated_on(frames[::-1], "", None)
    assert other["calibration_sha256"] != facts["calibration_sha256"]


class TestCalibrate:
    @pytest.fixture(params=["float", "u8"])
    def folder(self, request, tmp_path):
        model = toy() if request.param == "float" else toy_in_8_bits(method="max")
        folder = tmp_path / "toy"
        folder.mkdir()
        content = model.SerializeToString()
        (folder / "toy.onnx").write_bytes(content)
        description = {
            "name": "toy",
            "file": "toy.onnx",
            "sha256": hashlib.sha256(content).hexdigest(),
            "input": {"name": "image", "width": WIDTH, "height": HEIGHT, "layout": "NHWC",
                      "color": "BGR", "dtype": "uint8"},
            "outputs": {"strides": [4], "reg_max": 2, "box": ["box_8"], "class": ["class_8"]},
            "classes": ["a", "b", "c"],
            "precision": "fp32",
            "accuracy": {"drive": 0.5},
            "without_evidence": ["c"],
            "license": "none",
        }  # fmt: skip
        (folder / "model.yaml").write_text(yaml.safe_dump(description))
        return folder

    def test_writes_the_table_and_a_whole_model(self, folder, tmp_path):
        table = calibrate(folder, toy_frames(), tmp_path / "int8/toy.yaml", tmp_path / "toy-2")
        assert read_table(tmp_path / "int8/toy.yaml") == table
        model = load_model(str(tmp_path / "toy-2"))
        assert (model.name, model.precision) == ("toy-2", "int8")
        description = yaml.safe_load((tmp_path / "toy-2/model.yaml").read_text())
        assert not {"accuracy", "without_evidence"} & set(description)
        assert description["quantization"]["calibration_frames"] == len(list(toy_frames()))
        assert (description["license"], description["parent"]) == ("none", "toy")
        again = emit(float_of(onnx.load(model.path)), table, "u8")
        assert again.SerializeToString() == model.path.read_bytes()
        assert sorted(path.name for path in model.folder.iterdir()) == [
            "model.yaml",
            "ranges.yaml",
            "toy-2.s8.onnx",
            "toy-2.u8.onnx",
        ]

    def test_says_which_frames_it_was_made_of_and_their_licence(self, folder, tmp_path):
        own = {"name": "our own", "license": "MIT"}
        change(folder, data=[own, {"name": "yard (ranges of 8-bit values)", "license": "CC0"}])
        description = []
        for terms in ("CC BY-NC 4.0", ""):
            calibrate(folder, toy_frames(), tmp_path / "t.yaml", tmp_path / "toy-2", terms)
            description.append(yaml.safe_load((tmp_path / "toy-2/model.yaml").read_text()))
        stated, unstated = description
        toy = {"name": "toy (ranges of 8-bit values)", "license": "CC BY-NC 4.0"}
        assert stated["data"] == [own, toy]
        assert unstated["data"][1]["license"] == "unknown: --frames-license was not given"
        assert stated["quantization"]["calibration_sources"] == {"toy": 8}

    def test_needs_no_model_to_be_written(self, folder, tmp_path):
        before = sorted(path.name for path in folder.iterdir())
        calibrate(folder, toy_frames(), tmp_path / "t.yaml")
        assert sorted(path.name for path in folder.iterdir()) == before

    def test_refuses_to_write_over_its_model(self, folder, tmp_path):
        text = refusal(calibrate, folder, toy_frames(), tmp_path / "t.yaml", folder)
        assert "another folder" in text

    def test_refuses_a_name_that_would_be_its_own_parent(self, folder, tmp_path):
        change(folder, parent="dense")
        out = tmp_path / "models/dense"
        text = refusal(calibrate, folder, toy_frames(), tmp_path / "t.yaml", out)
        assert "cannot have the name 'dense'" in text and not out.exists()

    def test_refuses_8_bits_of_an_unknown_origin(self, folder, tmp_path):
        change(folder, precision="int8")
        text = refusal(calibrate, folder, toy_frames(), tmp_path / "t.yaml", tmp_path / "toy-2")
        assert "names no parent" in text
        calibrate(folder, toy_frames(), tmp_path / "t.yaml")  # a table compares nothing

    def test_refuses_a_file_that_is_not_the_described_one(self, folder, tmp_path):
        (folder / "toy.onnx").write_bytes(b"other")
        assert "sha256" in refusal(calibrate, folder, toy_frames(), tmp_path / "t.yaml")
        assert not (tmp_path / "t.yaml").exists()

    def test_refuses_what_is_no_model(self, tmp_path):
        assert "model.yaml" in refusal(calibrate, tmp_path, toy_frames(), tmp_path / "t.yaml")


def written(path, dialect="u8", spoiled=""):
    """A toy's file, with the scale of one tensor a hundredth of what it should be."""
    quantized = toy_in_8_bits(dialect)
    for tensor in quantized.graph.initializer:
        if tensor.name == f"{spoiled}_scale":
            value = (numpy_helper.to_array(tensor) / 100).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(quantized, path)
    return path


def test_the_layer_with_the_wrong_scale_is_first(tmp_path):
    frames = [image for _, image in toy_frames(3, seed=9)]
    sound = stored_costs(written(tmp_path / "sound.onnx"), frames, 1)
    spoiled = written(tmp_path / "spoiled.onnx", spoiled="mix.act_out")
    seen = []
    costs = stored_costs(spoiled, frames, 1, lambda done, total: seen.append((done, total)))
    assert next(iter(costs)) == "mix"
    assert costs["mix"] > 10 * sound["mix"]
    assert {name: cost for name, cost in costs.items() if name != "mix"} == pytest.approx(
        {name: cost for name, cost in sound.items() if name != "mix"}
    )
    assert seen == [(n, len(costs)) for n in range(1, len(costs) + 1)]


def test_the_other_dialect_is_refused(tmp_path):
    with pytest.raises(CompressionError, match="take the u8 file"):
        stored_costs(written(tmp_path / "s8.onnx", "s8"), [])
