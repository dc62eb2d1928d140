"""A compiled program, run by the plain interpreter, equals the integer network tensor by tensor."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpreter import Interpreter
from plain_network import PlainNetwork
from random_networks import networks
from street_frames import spread, street_frames

from perception_nodes.backends.qdq import read_network
from perception_nodes.core.inference import BackendError
from perception_nodes.core.integer import Convolution, MaxPool, Network, Store
from perception_nodes.core.tensor_graph import build_graph
from perception_nodes.fpga.allocate import allocate, in_place, lifetimes
from perception_nodes.fpga.compiler import assemble, compile_network
from perception_nodes.fpga.layout import LANES
from perception_nodes.fpga.lower import lower
from perception_nodes.fpga.program import Geometry, read_program
from perception_nodes.fpga.schedule import schedule
from perception_nodes.networks.model import load_model

BUILDS = {"512": Geometry(2, 64, 28672, 250.0), "1024": Geometry(4, 64, 28672, 250.0)}
MODELS = ("open-n", "open-xs")


def run(network, image, geometry, every_tensor=True):
    """Compile, interpret, compare; returns the program."""
    lowered = lower(build_graph(network))
    lowered = replace(lowered, operations=schedule(lowered.operations))
    times = lifetimes(lowered.buffers, lowered.operations)
    replaced = in_place(lowered.buffers, lowered.operations, times)
    bases, rows = allocate(lowered.buffers, times, geometry.rows, replaced)
    program = assemble(network, lowered, bases, rows, geometry)
    tensors = network.trace(image)
    engine = Interpreter(rows, geometry.blocks, geometry.tile)
    compared = set()

    def compare(number):
        """The tensor that the descriptor wrote, and the same channels of the network's tensor."""
        operation = lowered.operations[number - 1] if number else None
        if operation is None or operation.target is None or not every_tensor:
            return
        wanted = tensors.get(operation.layer.target)
        if wanted is None:
            return  # a copy of our own
        buffer, target = lowered.buffers[operation.target.buffer], operation.target
        base = bases[target.buffer] + target.group
        where = (base, buffer.groups, buffer.line_stride, target.groups, *wanted.shape[1:])
        at = engine.at(*where)
        codes = engine.memory[at].reshape(*wanted.shape[1:], -1).transpose(2, 0, 1)
        wanted = wanted[LANES * operation.output_group :][: len(codes)]
        np.testing.assert_array_equal(codes[: len(wanted)], wanted, operation.layer.name)
        compared.add(operation.layer.target)

    memory = engine.run(
        program.content, program.descriptors, image, program.output_bytes, after=compare
    )
    for output in program.outputs:
        np.testing.assert_array_equal(output.fixed(memory), tensors[output.name], output.name)
    if every_tensor:
        stored = {x.target for x in network.layers if isinstance(x, Convolution) and x.store}
        assert compared == stored
    return program


@given(networks(), st.sampled_from(list(BUILDS)))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_random_networks_are_computed_bit_for_bit(case, build):
    run(*case, BUILDS[build])


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_models_are_computed_bit_for_bit(name, build):
    model = load_model(name)
    network = read_network(model.path)
    for image in street_frames(model, spread(2)):
        program = run(network, image, BUILDS[build])
    assert [output.name for output in program.outputs] == list(network.fractions)
    assert program.rows <= 0.9 * BUILDS[build].rows
    for value in (0, 255):
        run(network, np.full_like(image, value), BUILDS[build], every_tensor=False)


@pytest.mark.parametrize("build", BUILDS)
def test_a_plain_network_is_computed_bit_for_bit(build):
    network = PlainNetwork(160, 96).network
    image = np.random.default_rng(2).integers(0, 256, (96, 160, 3), np.uint8)
    run(network, image, BUILDS[build])
    program = compile_network(PlainNetwork(640, 384).network, BUILDS[build])
    assert program.rows <= 0.9 * BUILDS[build].rows


def one(**changes):
    """A network of one convolution on an image of 8 x 8."""
    values = {
        "name": "stem/Conv",
        "source": "image",
        "target": "out",
        "weight": np.ones((16, 3, 3, 3), np.int16),
        "bias": np.zeros(16, np.int32),
        "stride": 1,
        "pads": (1, 1, 1, 1),
        "outside": -128,
        "multiplier": np.full(16, 1 << 16, np.int32),
        "shift": 16,
        "fraction": 4,
        "activation": "none",
        "store": None,
    }
    layer = Convolution(**{**values, **changes})
    return Network("image", 8, 8, (layer,), {"out": 4}, {"out": 1.0})


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.sampled_from([3, 4, 6, 8])] * 2),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.sampled_from(list(BUILDS)),
)
@settings(max_examples=40)
def test_a_stem_of_stride_4_is_one_of_stride_2_on_the_folded_image(seed, kernel, pads, build):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (16, 3, *kernel), np.int16)
    layer = replace(one().layers[0], weight=weight, stride=4, pads=pads)
    image = rng.integers(0, 256, (16, 24, 3), np.uint8)
    run(Network("image", 24, 16, (layer,), {"out": 4}, {"out": 1.0}), image, BUILDS[build])


@given(
    st.tuples(*[st.integers(1, 7)] * 2).flatmap(
        lambda kernel: st.tuples(st.just(kernel), *[st.integers(0, size - 1) for size in kernel])
    ),
    st.sampled_from([16, 32]),
    st.sampled_from(list(BUILDS)),
)
@settings(max_examples=40)
def test_a_result_in_place_stays_behind_what_is_read(case, channels, build):
    kernel, top, left = case
    rng = np.random.default_rng(4)

    def layer(source, target, into, out, size=(1, 1), pads=(0, 0, 0, 0), store=None):
        numbers = {"bias": np.zeros(out, np.int32), "multiplier": np.full(out, 1 << 16, np.int32)}
        weight = rng.integers(-127, 128, (out, into, *size)).astype(np.int16)
        names = {"name": f"{target}/Conv", "source": source, "target": target}
        return one(**names, **numbers, weight=weight, pads=pads, store=store).layers[0]

    store = Store(1 << 16, 20)
    pads = (top, left, kernel[0] - 1 - top, kernel[1] - 1 - left)
    layers = (
        layer("image", "a", 3, channels, store=store),
        layer("a", "b", channels, channels, kernel, pads, store),
        layer("b", "out", channels, 8),
    )
    network = Network("image", 32, 20, layers, {"out": 4}, {"out": 1.0})
    program = run(network, rng.integers(0, 256, (20, 32, 3), np.uint8), BUILDS[build])
    assert program.rows < 2 * (20 * 8 * channels // 16)


def refusal(network, geometry=BUILDS["512"]):
    with pytest.raises(BackendError) as caught:
        compile_network(network, geometry)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestRefusals:
    def test_an_operator_that_the_engine_has_not_is_named(self):
        network = one()
        layers = (MaxPool("image", "pooled", 3), *network.layers)
        text = refusal(Network("image", 8, 8, layers, {"out": 4}, {"out": 1.0}))
        assert "MaxPool 'pooled' is not an operator of our engines" in text

    @pytest.mark.parametrize("weight", [128, -129, 2047])
    def test_weights_of_12_bits(self, weight):
        weights = np.ones((16, 3, 3, 3), np.int16)
        weights[3, 1, 2, 0] = weight
        text = refusal(one(weight=weights))
        assert "Convolution 'stem/Conv' has weights of more than 8 bits" in text

    def test_a_stride_of_three(self):
        assert "'stem/Conv' has a kernel of 3x3, stride 3" in refusal(one(stride=3))

    def test_a_residual_that_would_leave_22_bits(self):
        store = Store(1 << 16, 20, "image", 8193)
        text = refusal(one(target="a", store=store))
        said = "'stem/Conv' has a residual multiplier of 8193; the engine supports up to 8192"
        assert said in text

    def test_a_width_that_cannot_be_loaded(self):
        layers = one().layers
        text = refusal(Network("image", 6, 8, layers, {"out": 4}, {"out": 1.0}))
        assert "6 pixels wide; the engine loads widths that are a multiple of 4" in text

    def test_what_does_not_fit_says_how_much_is_lacking(self):
        model = load_model("open-n")
        text = refusal(read_network(model.path), Geometry(2, 64, 9000, 250.0))
        assert "9000: 6084 rows of 64 bytes are lacking" in text

    def test_a_number_beyond_its_field_is_named(self):
        store = Store(1 << 16, 64)
        network = one(target="a", store=store)
        head = one(name="head/Conv", source="a", weight=np.ones((16, 16, 1, 1), np.int16)).layers[0]
        layers = (*network.layers, head)
        text = refusal(Network("image", 8, 8, layers, {"out": 4}, {"out": 1.0}))
        assert "'stem/Conv' needs store_shift 64, the engine supports 0 to 47" in text

    def test_a_model_with_a_layer_in_float(self, tmp_path):
        model = load_model("open-xs")
        file = onnx.load(model.path)
        initializers = {tensor.name: tensor for tensor in file.graph.initializer}
        convolution = next(node for node in file.graph.node if node.op_type == "Conv")
        dequantized = next(n for n in file.graph.node if n.output[0] == convolution.input[1])
        codes, scale, zero = (
            onnx.numpy_helper.to_array(initializers[n]) for n in dequantized.input
        )
        axes = (-1, 1, 1, 1)
        weight = (codes.astype(np.float32) - zero.reshape(axes)) * scale.reshape(axes)
        kept = onnx.numpy_helper.from_array(weight.astype(np.float32), "kept")
        file.graph.initializer.append(kept)
        convolution.input[1] = "kept"
        onnx.save(file, tmp_path / "mixed.onnx")
        text = refusal(read_network(tmp_path / "mixed.onnx"))
        assert convolution.name in text
        assert "kept in float" in text


class TestFile:
    def test_it_is_read_as_it_was_written(self, tmp_path):
        program = compile_network(one(), BUILDS["512"])
        program.save(tmp_path / "one.program")
        assert read_program(tmp_path / "one.program") == program

    @pytest.mark.parametrize("damage", ["gone", "empty", "other", "cut", "short", "flipped"])
    def test_a_damaged_one_is_refused(self, damage, tmp_path):
        path: Path = tmp_path / "one.program"
        compile_network(one(), BUILDS["512"]).save(path)
        content = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            damaged = {"empty": b"", "other": b"x" + content}
            damaged |= {"cut": content[:60], "short": content[:-1]}
            damaged |= {"flipped": content[:-99] + bytes([content[-99] ^ 1]) + content[-98:]}
            path.write_bytes(damaged[damage])
        with pytest.raises(BackendError, match=r"one\.program cannot be read: .*compile it again"):
            read_program(path)
