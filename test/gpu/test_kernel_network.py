"""The kernel of the integer network: the golden model's bits, in layers and in whole frames."""

import ctypes
import shutil
import subprocess
from dataclasses import replace

import kernels_on_host
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from layer_cases import cases
from random_networks import networks
from street_frames import spread, street_frames

from perception_nodes.backends.qdq import read_network
from perception_nodes.core.inference import BackendError
from perception_nodes.core.integer import Convolution, MaxPool, Network, Store
from perception_nodes.core.tensor_graph import (
    ChannelSpan,
    ConvolutionNode,
    Tensor,
    TensorGraph,
    build_graph,
)
from perception_nodes.gpu.network_job import MAX_LAYERS, plan_graph, plan_network
from perception_nodes.gpu.nvrtc import KERNELS
from perception_nodes.networks.model import load_model

MODELS = ("open-n", "open-s", "open-xs", "open-m")
ORDERS = st.sampled_from([kernels_on_host.FORWARDS, kernels_on_host.BACKWARDS])
slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
repeatedly = settings(max_examples=60, suppress_health_check=slow)


def ptx_a(lane, i):
    """Row and column of element i that a lane holds of A.

    As "Matrix Fragments for mma.m16n8k32" of the PTX ISA says for .s8. Four elements are in a
    register, the first in its lowest bits.
    """
    group, in_group = lane >> 2, lane % 4
    row = group if i < 4 or 8 <= i < 12 else group + 8
    return row, in_group * 4 + (i & 3) + (0 if i < 8 else 16)


def ptx_b(lane, i):
    """The same for B."""
    group, in_group = lane >> 2, lane % 4
    return in_group * 4 + (i & 3) + (0 if i < 4 else 16), group


def ptx_c(lane, i):
    """The same for the accumulators, each of which is a register."""
    group, in_group = lane >> 2, lane % 4
    return group if i < 2 else group + 8, in_group * 2 + (i & 1)


def fragments(matrix, place, count):
    """The elements that each lane holds: [32, count]."""
    held = [[matrix[place(lane, i)] for i in range(count)] for lane in range(32)]
    return np.ascontiguousarray(held, matrix.dtype)


@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["any", "limits"]))
def test_products_are_those_of_mma_with_the_registers_that_ptx_documents(seed, kind):
    rng = np.random.default_rng(seed)
    codes = [-128, 127] if kind == "limits" else range(-128, 128)
    a, b = (rng.choice(codes, shape).astype(np.int8) for shape in ((16, 32), (32, 8)))
    c = rng.integers(-(2**30), 2**30, (16, 8)).astype(np.int32)
    sums = fragments(c, ptx_c, 4)
    registers = [fragments(a, ptx_a, 16), fragments(b, ptx_b, 8), sums]
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in registers]
    kernels_on_host.load("network").mma(*pointers)
    wanted = a.astype(np.int32) @ b.astype(np.int32) + c
    np.testing.assert_array_equal(sums, fragments(wanted, ptx_c, 4))


def convolution_alone(case):
    """A random layer as a plan, and the plan's buffers with what it reads."""
    read = {f"segment {n}": codes for n, codes in enumerate(case.segments)}
    if case.residual is not None:
        read["residual"] = case.residual
    wanted = case.wanted()
    tensors = {name: Tensor(name, *codes.shape) for name, codes in read.items()}
    tensors |= {"image": Tensor("image", 3, 1, 1), "target": Tensor("target", *wanted.shape)}
    spans = {name: ChannelSpan(name, 0, len(codes)) for name, codes in read.items()}
    segments = tuple(
        (replace(spans[f"segment {n}"], upsampled=case.upsample[n]),)
        for n in range(len(case.segments))
    )
    stored = case.layer.store is not None
    graph = TensorGraph("image", tensors, () if stored else ("target",))
    graph.convolutions = [ConvolutionNode(case.layer, segments, spans.get("residual"), 0)]
    graph.buffers = [(name,) for name in (*read, *(["target"] if stored else []))]
    plan = plan_graph(graph)
    buffers = [np.zeros(size, np.uint8) for size in plan.buffers]
    for name, codes in read.items():
        plan.codes(name, buffers)[:] = codes
    return plan, buffers


@repeatedly
@given(case=cases(), order=ORDERS)
def test_any_layer_at_the_limits_of_its_numbers(case, order):
    plan, buffers = convolution_alone(case)
    outputs = kernels_on_host.run_network(plan, buffers, order)
    wanted = case.wanted()
    if case.layer.store is None:
        np.testing.assert_array_equal(np.ldexp(outputs["target"], case.layer.fraction), wanted)
    else:
        np.testing.assert_array_equal(plan.codes("target", buffers), wanted)


def compare(network, image, order=kernels_on_host.FORWARDS):
    """Run a frame, and compare every tensor with the golden model's; returns how many they are."""
    plan, wanted = plan_network(network), network.trace(image)
    buffers = [np.zeros(size, np.uint8) for size in plan.buffers]
    buffers[0][:] = image.reshape(-1)
    outputs = kernels_on_host.run_network(plan, buffers, order)
    targets = [node.layer.target for wave in plan.waves for node in wave]
    for name in targets:
        if name in outputs:
            found = np.ldexp(outputs[name], network.fractions[name])
        else:
            found = plan.codes(name, buffers)
        if name in wanted:  # and is no copy of our own
            np.testing.assert_array_equal(found, wanted[name], name)
    return len(targets)


@repeatedly
@given(drawn=networks(), order=ORDERS)
def test_any_network(drawn, order):
    try:
        compare(*drawn, order)
    except BackendError as error:
        assume("reads the image joined" not in str(error))
        raise


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_a_shipped_model_on_a_street_frame(name):
    model = load_model(name)
    (image,) = street_frames(model, spread(1))
    network = read_network(model.path)
    convolutions = sum(isinstance(layer, Convolution) for layer in network.layers)
    assert convolutions > 30
    assert compare(network, image) == convolutions


@given(drawn=networks(most=14))
def test_no_layer_of_a_wave_reads_what_the_same_or_a_later_wave_writes(drawn):
    try:
        plan = plan_network(drawn[0])
    except BackendError:
        assume(False)
    left = {node.layer.target for wave in plan.waves for node in wave}
    for wave in plan.waves:
        assert 0 < len(wave) <= MAX_LAYERS
        for node in wave:
            spans = [span for segment in node.segments for span in segment]
            read = {span.tensor for span in (*spans, node.residual) if span is not None}
            assert not read & left
        left -= {node.layer.target for node in wave}
    assert not left


def layer(channels=16, **changed):
    """A convolution of the image."""
    plain = Convolution(
        name="stem",
        source="image",
        target="out",
        weight=np.ones((channels, 3, 3, 3), np.int16),
        bias=np.zeros(channels, np.int32),
        stride=1,
        pads=(1, 1, 1, 1),
        outside=-128,
        multiplier=np.full(channels, 1 << 16, np.int32),
        shift=16,
        fraction=4,
        activation="none",
        store=None,
    )
    return replace(plain, **changed)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([MaxPool("image", "pooled", 3)], "MaxPool 'pooled' is not an operator of our engines"),
        ([layer(weight=np.full((16, 3, 3, 3), 128, np.int16))], "weights of more than 8 bits"),
        (
            [layer(channels=3, target="sum", store=Store(1 << 16, 20, "image", 1))],
            "'stem' reads the image joined, cut, enlarged or as a residual",
        ),
    ],
)
def test_what_the_kernels_do_not_support_is_named(layers, text):
    network = Network("image", 8, 8, (*layers, layer()), {"out": 4}, {"out": 1.0})
    with pytest.raises(BackendError, match=text):
        plan_network(network)


def test_more_memory_than_offsets_reach_is_told():
    graph = build_graph(Network("image", 8, 8, (layer(),), {"out": 4}, {"out": 1.0}))
    graph.tensors["large"] = Tensor("large", 16, 1 << 14, 1 << 13)
    graph.buffers = [("large",)]
    with pytest.raises(BackendError, match="'large' takes more than 2 GB"):
        plan_graph(graph)


@pytest.mark.parametrize(
    ("sm", "instruction", "other"), [(75, "dp4a.", "mma."), (80, "mma.sync", "dp4a.")]
)
def test_which_instruction_multiplies(sm, instruction, other, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed (it is part of the CUDA toolkit)")
    made = tmp_path / "network.ptx"
    command = ["nvcc", "-std=c++17", f"-arch=compute_{sm}", "-ptx", "-o", str(made)]
    subprocess.run([*command, str(KERNELS / "network.cu")], check=True)
    assert instruction in made.read_text()
    assert other not in made.read_text()
