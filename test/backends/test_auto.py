"""The runtime that `backend:=auto` means depends on the model alone."""

import pytest

from perception_nodes.backends.auto import AUTO, CHOICES, runtime_for
from perception_nodes.backends.contract import BACKENDS
from perception_nodes.backends.model import load_model


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("road-n", "litert"),
        ("road-s", "litert"),
        ("open-n", "openvino"),  # quantized by NNCF
        ("dense-416x256", "openvino"),  # float, with the head of an integer network
    ],
)
def test_integer_networks_run_on_litert_and_others_on_openvino(name: str, runtime: str) -> None:
    assert runtime_for(AUTO, load_model(name)) == runtime


def test_a_backend_that_is_named_stays() -> None:
    model = load_model("road-n")
    assert [runtime_for(name, model) for name in BACKENDS] == list(BACKENDS)
    assert set(CHOICES) == {AUTO, *BACKENDS}
