"""The CPU's runtime that suits a model: LiteRT for most integer networks, else OpenVINO."""

import os

from perception_nodes.backends.contract import BACKENDS, INSTALL
from perception_nodes.backends.delegate import DELEGATE
from perception_nodes.core.inference import BackendError
from perception_nodes.core.integer import Convolution
from perception_nodes.networks.model import LevelsSpec, Model

AUTO = "auto"
CHOICES = (AUTO, *BACKENDS)
"""Names that are allowed for a backend that runs a model."""


def runtime_for(backend: str, model: Model) -> str:
    """The backend that runs a model if this one is named.

    For `auto` it depends on the model, and on whether LiteRT has a delegate. LiteRT runs integer
    networks only, and OpenVINO computes networks of many depthwise convolutions faster: 1.4 times
    on a Xeon with VNNI. A missing runtime is still an error.

    Raises:
        BackendError: `auto` without onnx, which reads the model.
    """
    if backend != AUTO:
        return backend
    return "litert" if _suits_litert(model) else "openvino"


def _suits_litert(model: Model) -> bool:
    """Whether it is an integer network without a layer in float, and LiteRT is fast with it."""
    if not isinstance(model.outputs, LevelsSpec):
        return False
    try:
        # Where a backend is named that has its own form of the model, there may be no onnx.
        from perception_nodes.backends.qdq import read_network
    except ImportError as error:
        why = f"backend {AUTO} cannot read {model.path} to choose a runtime ({error})"
        remedy = f"name the backend, or install it: pip install {INSTALL['golden']}"
        raise BackendError(f"{why}; {remedy}") from error
    try:
        layers = read_network(model.path).layers
    except BackendError:
        return False
    found = [layer for layer in layers if isinstance(layer, Convolution)]
    # From a tenth of depthwise ones on, OpenVINO is faster; a delegate is for LiteRT alone.
    is_fast = DELEGATE in os.environ or 10 * sum(one.depthwise for one in found) < len(found)
    return is_fast and all(one.has_8_bits for one in found)
