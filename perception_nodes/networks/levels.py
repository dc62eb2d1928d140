"""Finds the raw head inside an Ultralytics export, where the imported network ends.

Then only the boxes of objects are decoded instead of those of all cells, and quantization sees only
convolutions.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from perception_nodes.networks.heads import cells_of
from perception_nodes.networks.onnx_file import OnnxNetwork, session_of

REG_MAX = 16
MOVES = ("Reshape", "Concat")
CLOSE = 1e-3
"""Largest difference of a coordinate, in strides."""
SAME_SCORE = 1e-2
"""Largest difference of a probability, as a share of it, since all are near zero in a picture
without objects."""
EXACT = 1e-6
"""Largest absolute difference of a probability: ONNX Runtime computes a sigmoid to about 1.4e-7."""


def find_levels(
    exported: OnnxNetwork, strides: Sequence[int], classes: int
) -> tuple[list[str], list[str]] | None:
    """Find the names of the raw head's box tensors and class tensors, level by level.

    Returns:
        The names; None if there are none, or if they decode to other boxes than the network's.
    """
    graph = exported.network.graph
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in graph.value_info
    }
    last = [
        node.output[0]
        for node in graph.node
        if node.op_type == "Conv"
        and readers.get(node.output[0])
        and all(kind in MOVES for kind in readers[node.output[0]])
    ]
    boxes, scores = [], []
    for stride in strides:
        cells = (exported.height // stride, exported.width // stride)
        at = [name for name in last if shapes.get(name, ())[2:] == cells]
        wanted = 4 * REG_MAX, classes
        found = [[name for name in at if shapes[name][1] == one] for one in wanted]
        if wanted[0] == wanted[1] and len(at) == 2:
            found = [at[:1], at[1:]]
        if any(len(one) != 1 for one in found):
            return None
        boxes += found[0]
        scores += found[1]
    return (boxes, scores) if _agree(exported, strides, boxes, scores) else None


def _agree(
    exported: OnnxNetwork, strides: Sequence[int], boxes: list[str], scores: list[str]
) -> bool:
    """Whether the raw head and the network's own answer give the same boxes for a picture."""
    probed = onnx.ModelProto()
    probed.CopyFrom(exported.network)
    probed.graph.output.extend(map(helper.make_empty_tensor_value_info, (*boxes, *scores)))
    picture = np.random.default_rng(0).random((1, 3, exported.height, exported.width), np.float32)
    names = [*exported.outputs, *boxes, *scores]
    own, *raw = session_of(probed).run(names, {exported.image: picture})
    levels = len(boxes)
    probabilities = np.concatenate([1 / (1 + np.exp(-_flat(t))) for t in raw[levels:]], axis=1)
    if not np.allclose(probabilities, own[0, 4:], rtol=SAME_SCORE, atol=EXACT):
        return False
    bins = [np.exp(_flat(tensor).reshape(4, REG_MAX, -1)) for tensor in raw[:levels]]
    places = np.arange(REG_MAX, dtype=np.float32)[:, None]
    reach = [(one * places).sum(axis=1) / one.sum(axis=1) for one in bins]
    left, top, right, bottom = np.concatenate(reach, axis=1)
    corners, widths = cells_of(exported, list(strides))
    x, y = (corners + 0.5).T
    middle = np.stack([x + (right - left) / 2, y + (bottom - top) / 2])
    ours = np.concatenate([middle, np.stack([left + right, top + bottom])]) * widths
    return bool((np.abs(ours - own[0, :4]) < CLOSE * widths).all())


def _flat(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    return tensor.reshape(tensor.shape[1], -1)
