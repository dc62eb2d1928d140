"""The runtime that `backend:=auto` means depends on the model alone."""

import hashlib
import subprocess
import sys

import onnx
import pytest
import yaml
from toys import toy_in_8_bits

from perception_nodes.backends.auto import AUTO, CHOICES, runtime_for
from perception_nodes.backends.contract import BACKENDS
from perception_nodes.networks.model import load_model


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("open-n", "litert"),
        ("open-s", "litert"),
        ("open-n", "litert"),  # five depthwise layers of 67
        ("open-m", "openvino"),  # 17 of 92
        ("open-n-float", "openvino"),  # float, with the head of an integer network
    ],
)
def test_integer_networks_run_on_litert_and_others_on_openvino(name, runtime):
    assert runtime_for(AUTO, load_model(name)) == runtime


def test_a_delegate_computes_depthwise_networks_too(monkeypatch):
    monkeypatch.setenv("PERCEPTION_DELEGATE", "libedgetpu.so.1")
    assert runtime_for(AUTO, load_model("open-m")) == "litert"


@pytest.mark.parametrize(("kept", "runtime"), [((), "litert"), (("enter",), "openvino")])
def test_a_network_with_a_layer_in_float_runs_on_openvino(tmp_path, kept, runtime):
    file = tmp_path / "toy.onnx"
    onnx.save(toy_in_8_bits(groups=1, float_convolutions=kept), file)
    description = yaml.safe_load((load_model("open-n").folder / "model.yaml").read_text())
    description |= {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    description.pop("s8")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(description))
    assert runtime_for(AUTO, load_model(str(tmp_path))) == runtime


def test_only_auto_needs_onnx():
    """A machine that runs a compiled program of another one may be without it."""
    code = """
import sys
sys.modules["onnx"] = None
from perception_nodes.backends import fpga, serving
from perception_nodes.backends.auto import runtime_for
from perception_nodes.networks.model import load_model
from perception_nodes.core.inference import BackendError
assert runtime_for("fpga", load_model("open-n")) == "fpga"
try:
    runtime_for("auto", load_model("open-n"))
except BackendError as error:
    assert "open-n" in str(error) and "pip install onnx" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_backend_that_is_named_stays():
    model = load_model("open-n")
    assert [runtime_for(name, model) for name in BACKENDS] == list(BACKENDS)
    assert set(CHOICES) == {AUTO, *BACKENDS}
