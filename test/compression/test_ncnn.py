"""ncnn's files: a small network against plain NumPy, and files that are not whole."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from model_compression.errors import CompressionError
from model_compression.ncnn import HALF, convert, main

PARAM = """7767517
9 12
Input          in0    0 1 in0
Convolution    conv0  1 1 in0 a 0=6 1=1 5=1 6=18 9=2 -23310=1,1.000000e-01
Split          split0 1 2 a a0 a1
ShuffleChannel mix0   1 1 a0 b 0=2
Slice          cut0   1 2 b c d -23300=2,-233,-233
BinaryOp       add0   2 1 c d e 0=0
Concat         cat0   2 1 e a1 f
Pooling        max0   1 1 f g 0=0 1=1 2=2 5=1
Reshape        flat0  1 1 g out0 0=-1 1=9
"""
RANDOM = np.random.default_rng(3)
WEIGHT = RANDOM.normal(size=(6, 3)).astype(np.float16)
BIAS = RANDOM.normal(size=6).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    param, weights = tmp_path / "it.param", tmp_path / "it.bin"
    param.write_text(PARAM)
    weights.write_bytes(HALF.to_bytes(4, "little") + WEIGHT.tobytes() + BIAS.tobytes())
    return param, weights


def test_a_network_computes_what_its_file_says(files):
    network = convert(*files, (8, 4))
    image = RANDOM.normal(size=(1, 3, 4, 8)).astype(np.float32)
    found = onnxruntime.InferenceSession(network.SerializeToString()).run(None, {"in0": image})[0]
    a = np.einsum("oc,chw->ohw", WEIGHT.astype(np.float32), image[0]) + BIAS[:, None, None]
    a = np.where(a > 0, a, 0.1 * a)
    b = a[[0, 3, 1, 4, 2, 5]]
    f = np.concatenate([b[:3] + b[3:], a])[:, ::2, ::2]
    np.testing.assert_allclose(found, f.reshape(1, 9, 8), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "spoil, text",
    [
        (lambda weights: weights.write_bytes(weights.read_bytes()[:-1]), "is shorter"),
        (lambda weights: weights.unlink(), "cannot be read"),
    ],
)
def test_weights_that_cannot_be_read_are_told(spoil, text, files):
    spoil(files[1])
    with pytest.raises(CompressionError, match=text):
        convert(*files, (8, 4))


@pytest.mark.parametrize(
    "given, instead, text",
    [
        ("6=18", "6=18 13=2", "parameter 13 of Convolution 'a' is 2; only 1 is known"),
        ("6=18", "6=18 18=0.5", "parameter 18 of Convolution 'a' is 0.5; only 0 is known"),
        ("a0 b 0=2", "a0 b 0=2 1=1", "parameter 1 of ShuffleChannel 'b' is 1"),
        ("2,-233,-233", "2,2,-233", "slice 'c' has parts of different sizes"),
        ("0=-1 1=9", "0=-1 1=9 2=1", "parameter 2 of Reshape 'out0' is 1; only -233 is known"),
        (PARAM, "not ncnn", "no text file of ncnn"),
        ("Split ", "Swish ", "Swish is not"),
        (" out0 0=-1 1=9\n", "", "'Reshape flat0 1 1 g' .* no whole"),
        ("Reshape        flat0  1 1 g out0 0=-1 1=9\n", "", "has 8 layers, and says 9"),
        (" g out0", " h out0", "'out0' of"),
        ("1=9", "1=7", "makes no network"),
    ],
)
def test_a_text_that_cannot_be_converted_is_told(given, instead, text, files):
    assert PARAM.count(given) == 1
    files[0].write_text(PARAM.replace(given, instead))
    with pytest.raises(CompressionError, match=text):
        convert(*files, (8, 4))


def test_a_parameter_that_says_what_is_so_anyway_is_none(files):
    before = convert(*files, (8, 4))
    said = PARAM.replace("6=18", "6=18 13=1 14=0 18=0.0 31=1 -23330=4,3,8,4,6")
    files[0].write_text(said.replace("2=2 5=1", "2=2 12=2 5=1").replace("2,-233,-233", "2,3,3"))
    assert convert(*files, (8, 4)) == before


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--size", "416"], "'416' is not WIDTHxHEIGHT"),
        (["--size", "8x4"], "file/it.onnx cannot be written: File exists"),
    ],
)
def test_what_is_asked_wrongly_is_told_first(arguments, text, files, monkeypatch, capsys):
    (files[0].parent / "file").touch()
    monkeypatch.chdir(files[0].parent)
    monkeypatch.setattr("sys.argv", ["ncnn", "it.param", "it.bin", "file/it.onnx", *arguments])
    monkeypatch.setattr("model_compression.ncnn.convert", None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and text in capsys.readouterr().err


def test_the_file_is_written_whole(files, monkeypatch):
    monkeypatch.chdir(files[0].parent)
    monkeypatch.setattr("sys.argv", ["ncnn", "it.param", "it.bin", "it.onnx", "--size", "8x4"])
    main()
    assert {path.name for path in Path().iterdir()} == {"it.param", "it.bin", "it.onnx"}
    assert onnxruntime.InferenceSession("it.onnx").get_inputs()[0].shape == [1, 3, 4, 8]
