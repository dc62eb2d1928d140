"""The teacher: backbone and pyramid of Intel's person-vehicle-bike-detection-2003 in OpenVINO."""

from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from model_compression.errors import CompressionError

ZOOM = 2
"""The teacher sees a picture of so many times the student's width and height."""
BACKBONE = ("Add_59", "Add_120", "BatchNormalization_154")
"""Operators whose maps have strides 8, 16 and 32 pixels of the teacher's picture."""
PYRAMID = ("Conv_200", "Conv_201", "Conv_202", "Conv_203")
"""Operators whose maps have strides 8 to 64."""
CHANNELS = (128, 320, 320, 64, 64, 64)
"""Of the maps that ``Teacher.maps`` returns."""

Map = NDArray[np.float16]


class Teacher:
    """Computes what a student is to have in its maps.

    A place of the student's maps covers four of the teacher's finer ones and has their mean, beside
    the map of its own grid. So the student learns what the teacher sees at twice the resolution.
    """

    def __init__(self, network: Path, size_px: tuple[int, int], threads: int = 1) -> None:
        """Read the network.

        Args:
            network: OpenVINO's `.xml` file, its `.bin` beside it.
            size_px: width and height of the student's input.
            threads: of inference.

        Raises:
            CompressionError: it cannot be read, or is another network.
        """
        core = openvino.Core()
        try:
            whole = core.read_model(network)
        except RuntimeError as error:
            raise CompressionError(f"{network} cannot be read: {error}") from error
        operators = {one.get_friendly_name(): one for one in whole.get_ordered_ops()}
        if missing := [name for name in (*BACKBONE, *PYRAMID) if name not in operators]:
            raise CompressionError(f"{network} has no operator {missing[0]}; take -2003 or -2004")
        outputs = [operators[name].output(0) for name in (*BACKBONE, *PYRAMID)]
        maps = openvino.Model(outputs, [whole.inputs[0].get_node()])
        maps.reshape([1, 3, ZOOM * size_px[1], ZOOM * size_px[0]])
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._network = core.compile_model(maps, "CPU", settings)

    def maps(self, picture: NDArray[np.uint8]) -> list[Map]:
        """Return what the student's maps of strides 8, 16 and 32 are to have: stages, pyramid.

        Args:
            picture: [h, w, 3] BGR of twice the student's size.

        Returns:
            Six maps, float16 [c, h, w], channels as of `CHANNELS`.
        """
        found = self._network(picture.transpose(2, 0, 1)[None].astype(np.float32))
        c8, c16, c32, p8, p16, p32, p64 = (value[0] for value in found.values())
        wanted = [
            np.concatenate([mean_of_four(c8), c16]),
            c32,
            mean_of_four(c32),
            np.concatenate([mean_of_four(p8), p16]),
            np.concatenate([mean_of_four(p16), p32]),
            np.concatenate([mean_of_four(p32), p64]),
        ]
        return [one.astype(np.float16) for one in wanted]


def mean_of_four(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Halve both sides of a map [c, 2 h, 2 w]."""
    channels, height, width = values.shape
    return values.reshape(channels, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
