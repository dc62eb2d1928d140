"""A network that has been given our input and head, as files."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rewritten:
    """A network: uint8 [1, height, width, 3] BGR in, the tensors of `outputs` out.

    Attributes:
        files: content by the ending of its name; the first is the one that a runtime opens.
        outputs: the `outputs` of model.yaml.
        parameters: number of its weights.
    """

    files: dict[str, bytes]
    outputs: dict[str, Any]
    parameters: int
