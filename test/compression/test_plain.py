"""Plain networks: the file that is written of them, on every runtime, and what they learn from."""

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="needs the build tools: make compression")

from exported import as_trained, assert_computes

from model_compression.config import Shape
from model_compression.contract import OUTPUT_NAMES
from model_compression.export import export
from model_compression.model import FeatureRegression, count_gmac
from model_compression.plain import PlainNetwork, block
from model_compression.quantization import emit, measure
from perception_nodes.backends.qdq import read_network
from perception_nodes.fpga.compiler import compile_network
from perception_nodes.fpga.program import Geometry

SIZE = (96, 64)
CLASSES = 3
SHAPE = Shape(
    widths=(32, 32, 64, 96), depths=(1, 2, 1, 1), stem_kernel=6, neck=32, head=64
)  # no two alike


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return as_trained(PlainNetwork(SHAPE, "relu", CLASSES).eval())


def test_the_file_computes_what_the_network_does(network, tmp_path):
    graph = export(network, tmp_path / "a.onnx", SIZE).graph
    assert {node.op_type for node in graph.node} - {"Constant"} == {
        "Concat", "Conv", "DequantizeLinear", "Relu", "Resize", "Transpose",
    }  # fmt: skip
    assert_computes(tmp_path / "a.onnx", network)


def test_the_8_bit_file_is_the_integer_networks_and_the_fpgas(network, tmp_path):
    graph = export(network, tmp_path / "a.onnx", SIZE)
    rng = np.random.default_rng(1)
    shape = (SIZE[1], SIZE[0], 3)
    frames = [(f"{i}", rng.integers(0, 256, shape, dtype=np.uint8)) for i in range(8)]
    file = emit(graph, measure(graph, frames, "tiny", weight_bits=7), "u8")
    onnx.save(file, tmp_path / "a.u8.onnx")
    integers = read_network(tmp_path / "a.u8.onnx")
    session = onnxruntime.InferenceSession(file.SerializeToString())
    for _, frame in frames[:2]:
        golden = integers.run(frame)
        for name, theirs in zip(
            OUTPUT_NAMES, session.run(list(OUTPUT_NAMES), {"image": frame[None]}), strict=True
        ):
            assert np.abs((golden[name] - theirs) / integers.output_steps[name]).mean() < 1, name
            assert theirs.std() > 10 * integers.output_steps[name]  # else anything would agree
    program = compile_network(integers, Geometry(2, 64, 28672, 250.0))
    assert {output.name for output in program.outputs} == set(OUTPUT_NAMES)


def test_work_is_that_of_the_description(network):
    places = [SIZE[0] * SIZE[1] / stride**2 for stride in (4, 8, 16, 32)]
    macs = places[0] * (3 * 36 * 32 + 9 * 32 * 32)  # stem, first stage
    macs += places[1] * 9 * (32 * 32 + 2 * 32 * 32)
    macs += places[2] * 9 * (32 * 64 + 64 * 64)
    macs += places[3] * 9 * (64 * 96 + 96 * 96)
    macs += places[1] * (32 + 32) * 32 + places[2] * (64 + 32) * 32 + places[3] * 96 * 32
    head = 9 * 32 * 32 + 2 * 9 * 32 * 64 + 64 * (64 + CLASSES)
    macs += sum(places[1:]) * head
    assert count_gmac(network, SIZE) == pytest.approx(macs / 1e9, rel=1e-9)


def test_a_block_that_can_begins_as_the_identity():
    torch.manual_seed(0)
    weight = block(64, 64).conv.weight.detach()
    assert weight[range(64), range(64), 1, 1].mean() == pytest.approx(1, abs=0.05)
    noise = weight.clone()
    noise[range(64), range(64), 1, 1] -= 1
    assert noise.std() == pytest.approx(np.sqrt(2 / (9 * 64)) / 2, rel=0.05)
    assert block(32, 64).conv.weight.mean().abs() < 0.01


def test_regression_is_the_explained_variance():
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(2, 4, 8, 8, generator=generator)
    noise = torch.randn(2, 3, 8, 8, generator=generator)
    mixing = torch.randn(3, 4, 1, 1, generator=generator)
    theirs = torch.nn.functional.conv2d(ours, mixing) + 0.5 * noise + 7
    loss = FeatureRegression([4], [3])
    # An oracle: the best linear map, by least squares.
    rows = ours.permute(0, 2, 3, 1).reshape(-1, 4).double().numpy()
    wanted = theirs.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
    rows = np.column_stack([rows, np.ones(len(rows))])
    best = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    expected = 1 - ((rows @ best - wanted) ** 2).mean() / wanted.var(axis=0).mean()
    with torch.no_grad():
        loss.adapters[0].weight[:] = torch.from_numpy(best[:4].T[..., None, None])
        loss.adapters[0].bias[:] = torch.from_numpy(best[4])
        assert loss([ours], [theirs]).item() == pytest.approx(expected, abs=1e-5)
    assert 0.5 < expected < 1
