"""What stops a compression run."""

from perception_nodes.core.errors import PerceptionError
from perception_nodes.networks.model import ModelRefused


class CompressionError(PerceptionError):
    """Something that a run cannot work with; one line that names it, its value and the remedy."""


class GateRefused(CompressionError, ModelRefused):
    """The model costs more accuracy than the configuration allows, so it is not written."""
