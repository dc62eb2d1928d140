"""The CPU's runtime that suits a model: LiteRT for an integer network, OpenVINO for any other."""

from perception_nodes.backends.contract import BACKENDS
from perception_nodes.backends.model import LevelsSpec, Model
from perception_nodes.backends.qdq import read_network
from perception_nodes.core.inference import BackendError

AUTO = "auto"
CHOICES = (AUTO, *BACKENDS)
"""What may be named where a model will run."""


def runtime_for(backend: str, model: Model) -> str:
    """The backend that runs a model if this one is named.

    For `auto` it depends on the model alone. On a CPU LiteRT is the fastest with an integer
    network, and runs nothing else. A runtime that is not installed is still an error.
    """
    if backend != AUTO:
        return backend
    return "litert" if _is_integer_network(model) else "openvino"


def _is_integer_network(model: Model) -> bool:
    if not isinstance(model.outputs, LevelsSpec):
        return False
    try:
        read_network(model.path)
    except BackendError:
        return False
    return True
