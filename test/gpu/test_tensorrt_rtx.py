"""The shipped models built by a real TensorRT.

TensorRT-RTX builds engines without a GPU and lists the types in which each layer computes; nothing
is run here.
"""

import re

import onnx
import pytest

from perception_nodes.core.inference import BackendError
from perception_nodes.gpu.tensorrt.build import build
from perception_nodes.gpu.tensorrt.engine import Engine, EngineRefused
from perception_nodes.gpu.tensorrt.library import load_library
from perception_nodes.networks.model import available_models, load_model

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (make dev, on x86_64)")

QUANTIZED = [name for name in available_models() if load_model(name).s8 is not None]
WITH_INT8 = (80, 86, 89, 120)
"""GPUs for which TensorRT-RTX builds engines that compute in 8 bits."""


@pytest.fixture(scope="module")
def library():
    found = load_library()
    if not found.for_rtx:
        pytest.skip(f"{found.name} is installed and comes first; it builds for its own GPU alone")
    assert found.cuda == 13000
    return found


def convolutions_of(file):
    return {node.name for node in onnx.load(file).graph.node if node.op_type == "Conv"}


@pytest.mark.parametrize("sm", WITH_INT8)
@pytest.mark.parametrize("name", QUANTIZED)
def test_every_convolution_is_computed_in_8_bits(library, name, sm):
    file, _ = load_model(name).signed_file()
    told = []
    built = build(library, file, sm, progress=lambda done, total: told.append((done, total)))
    # The name of a layer is that of its node, followed by a number.
    ran = {re.sub(r"_myl\d+_\d+$", "", one.name) for one in built.convolutions}
    assert ran == convolutions_of(file)
    assert len(built.convolutions) == len(ran), "a convolution was split"
    assert not [one for one in built.convolutions if not one.in_int8]
    assert told == sorted(told) and told[-1] == (1000, 1000)


def test_a_fallback_is_seen(library):
    """TensorRT-RTX has no 8-bit convolutions for Turing, and says so."""
    file, _ = load_model("open-xs").signed_file()
    built = build(library, file, 75)
    assert len(built.convolutions) == len(convolutions_of(file))
    assert not any(one.in_int8 for one in built.convolutions)
    assert {type_ for one in built.convolutions for type_ in one.inputs} == {"float"}


def test_float_files_are_none_for_it(library):
    """Why there is no engine of a float model: its first node transposes bytes."""
    with pytest.raises(BackendError, match="refuses .*float.onnx: .*UINT8"):
        build(library, load_model("open-n-float").path, 89)


def test_gpu_that_it_does_not_build_for(library):
    file, _ = load_model("open-xs").signed_file()
    with pytest.raises(BackendError, match="does not build for SM53; it does for SM120, SM121,"):
        build(library, file, 53)


def test_file_that_is_no_network(library, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no network")
    with pytest.raises(BackendError, match=r"TensorRT-RTX .* refuses .*x.onnx: "):
        build(library, tmp_path / "x.onnx", 89)


def test_engine_that_is_none(library):
    with pytest.raises(EngineRefused, match="TensorRT-RTX .* refuses the engine: "):
        Engine(None, library, b"no engine")
