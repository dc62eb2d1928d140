"""A detector that was exported elsewhere: its network and what it expects of its pixels."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.networks.class_names import python_value
from perception_nodes.networks.model import ModelError, Shape

INPUT_NAME = "image"
"""Name of the input that an imported network gets."""
NEW_OPSET = 17
"""The opset of the nodes written here."""
STRIDES = (8, 16, 32)
MOST_OBJECTS = 300
"""Objects of a network that leaves open how many it reports; more are cut off."""
INTEGER = {"QLinearConv", "ConvInteger", "MatMulInteger"}
CHECKPOINTS = (".pt", ".safetensors")
"""Endings of files of Ultralytics and transformers, which their own tools export to ONNX."""
NO_BOXES = ("classify", "semantic", "depth")
ANCHOR_MAP_DIMS = 5
"""Dimensions of the raw maps that some exports of YOLOv5 and v7 have beside their answer."""
OTHER_SIZE = "give another --size, in multiples of 32, or export it again"


@dataclass(frozen=True)
class Normalisation:
    """What a network expects of its pixels, and of the place of the picture.

    Attributes:
        color: order of the channels, "RGB" or "BGR".
        mean, std: by channel in that order: the network gets (byte - mean) / std.
        resize: "letterbox", "top-left" or "stretch".
        padding: grey of the letterbox's border.
    """

    color: str = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    resize: str = "letterbox"
    padding: int = 114


@dataclass(frozen=True)
class ExportedNetwork(ABC):
    """A detector as it was exported.

    Attributes:
        path: its file.
        image: name of its one input, float32 [1, 3, height, width].
        width, height: of that input.
        outputs: shape of each output, by name.
        operators: the kinds of operators in it.
        sliced: whether it begins by slicing the image, as YOLOX does.
        facts: the metadata that the exporter wrote.
        dead: names of convolutions whose weights are all zero.
        names: names of its operators and weights.
        open: axis along which an output has as many objects as there are, by name; of that axis
            `outputs` has the largest size.
    """

    path: Path
    image: str
    width: int
    height: int
    outputs: dict[str, Shape]
    operators: frozenset[str]
    sliced: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    dead: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    open: dict[str, int] = field(default_factory=dict)

    @cached_property
    def answer(self) -> dict[str, NDArray[Any]]:
        """The outputs, by name, for a picture of noise."""
        shape = (1, 3, self.height, self.width)
        return self.run(np.random.default_rng(0).random(shape, np.float32))

    @abstractmethod
    def run(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The outputs, by name, for a normalised image, float32 [1, 3, height, width]."""

    @property
    def quantized(self) -> bool:
        """Whether it has 8 bits inside already."""
        return any("Quant" in one or one in INTEGER for one in self.operators)

    def cells(self, *strides: int) -> int:
        """Number of cells of all levels; a stride that does not divide the input is rounded up."""
        return sum(-(-self.width // stride) * -(-self.height // stride) for stride in strides)


@dataclass(frozen=True)
class RewrittenNetwork:
    """A network: uint8 [1, height, width, 3] BGR in, the tensors of `outputs` out.

    Attributes:
        files: content by the ending of its name; the first is the one that a runtime opens.
        outputs: the `outputs` of model.yaml.
        parameters: number of its weights.
    """

    files: dict[str, bytes]
    outputs: dict[str, Any]
    parameters: int


def chosen_size(
    path: Path, facts: dict[str, str], fixed: tuple[int, int] | None, size: tuple[int, int] | None
) -> tuple[int, int]:
    """Width and height: the network's own, the user's, or those of its metadata.

    Raises:
        ModelError: none is known, or the user's is not the network's; or it is no detector.
    """
    task = facts.get("task", "detect")
    if task in NO_BOXES:
        raise ModelError(f"{path} is a network for {task!r}, which finds no boxes; take a detector")
    if fixed and size and fixed != size:
        sizes = f"{fixed[0]}x{fixed[1]} only, not {size[0]}x{size[1]}"
        remedy = "leave --size out, or export it again with that size or with dynamic axes"
        raise ModelError(f"{path} takes {sizes}; {remedy}")
    if known := fixed or size:
        return known
    try:
        height, width = python_value(facts["imgsz"])
        return int(width), int(height)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        remedy = "give --size WIDTHxHEIGHT"
        raise ModelError(f"{path} leaves the size of its input open; {remedy}") from error
