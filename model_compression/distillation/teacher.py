"""The teacher: backbone and pyramid of Intel's person-vehicle-bike-detection-2003 in OpenVINO."""

from pathlib import Path
from typing import Protocol

import numpy as np
import openvino
from numpy.typing import NDArray

from model_compression.errors import CompressionError

OPERATORS = (
    *("Add_59", "Add_120", "BatchNormalization_154"),
    *("Conv_200", "Conv_201", "Conv_202"),
)
"""Whose maps have strides 8, 16 and 32: of the backbone, then of the pyramid."""

Map = NDArray[np.float16]


class Teaches(Protocol):
    """What makes maps for a student."""

    def maps(self, picture: NDArray[np.uint8]) -> list[Map]:
        """Return maps, float16 [c, h, w], for a picture [h, w, 3] BGR."""


class NoTeacher:
    """Has no maps: label files alone teach."""

    def maps(self, picture: NDArray[np.uint8]) -> list[Map]:
        """Return none."""
        return []


class Teacher:
    """Computes what a student is to have in its maps."""

    def __init__(self, network: Path, size_px: tuple[int, int]) -> None:
        """Read the network.

        Args:
            network: OpenVINO's `.xml` file, its `.bin` beside it.
            size_px: width and height of the input.

        Raises:
            CompressionError: it cannot be read, or is another network.
        """
        core = openvino.Core()
        try:
            whole = core.read_model(network)
        except RuntimeError as error:
            raise CompressionError(f"{network} cannot be read: {error}") from error
        found = {one.get_friendly_name(): one for one in whole.get_ordered_ops()}
        if missing := [name for name in OPERATORS if name not in found]:
            raise CompressionError(f"{network} has no operator {missing[0]}; take -2003 or -2004")
        outputs = [found[name].output(0) for name in OPERATORS]
        maps = openvino.Model(outputs, [whole.inputs[0].get_node()])
        maps.reshape([1, 3, size_px[1], size_px[0]])
        settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
        self._network = core.compile_model(maps, "CPU", settings)

    def maps(self, picture: NDArray[np.uint8]) -> list[Map]:
        """Return the maps of `OPERATORS`, float16 [c, h, w], for a picture [h, w, 3] BGR."""
        found = self._network(picture.transpose(2, 0, 1)[None].astype(np.float32))
        return [value[0].astype(np.float16) for value in found.values()]
