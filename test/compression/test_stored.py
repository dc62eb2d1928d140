import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from toys import toy, toy_frames

from model_compression.errors import CompressionError
from model_compression.quantization import emit, measure
from model_compression.quantization.stored import stored_costs


def written(path, dialect="u8", spoiled=""):
    """A toy's file, with the scale of one tensor a hundredth of what it should be."""
    model = toy()
    quantized = emit(model, measure(model, toy_frames(), "toy"), dialect)
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
