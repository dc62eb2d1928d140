"""The CPU's runtime that suits a model: LiteRT for an integer network, OpenVINO for any other."""

from perception_nodes.backends.contract import BACKENDS, INSTALL
from perception_nodes.core.inference import BackendError
from perception_nodes.core.integer import Convolution
from perception_nodes.networks.model import LevelsSpec, Model

AUTO = "auto"
CHOICES = (AUTO, *BACKENDS)
"""Names that are allowed for a backend that runs a model."""


def runtime_for(backend: str, model: Model) -> str:
    """The backend that runs a model if this one is named.

    For `auto` it depends on the model alone. On a CPU LiteRT is the fastest with an integer
    network, and runs nothing else. A runtime that is not installed is still an error.

    Raises:
        BackendError: `auto` without onnx, which reads the model.
    """
    if backend != AUTO:
        return backend
    return "litert" if _suits_litert(model) else "openvino"


def _suits_litert(model: Model) -> bool:
    """Whether it is an integer network without a layer that is kept in float."""
    if not isinstance(model.outputs, LevelsSpec):
        return False
    try:
        # Where a backend is named that has its own form of the model, there may be no onnx.
        from perception_nodes.backends.qdq import read_network
    except ImportError as error:
        raise BackendError(
            f"backend {AUTO} cannot read {model.path} to choose a runtime ({error}); name the "
            f"backend, or install what is missing with: pip install {INSTALL['golden']}"
        ) from error
    try:
        layers = read_network(model.path).layers
    except BackendError:
        return False
    return all(layer.has_8_bits for layer in layers if isinstance(layer, Convolution))
