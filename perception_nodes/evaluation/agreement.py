"""Whether two networks detect the same objects on frames that nobody has labelled.

An object counts if one of the two networks is sure of it. Both directions count: a network that
detects nothing lacks the objects of the other, and the objects of a network that detects something
everywhere are missing from the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import Backend
from perception_nodes.core.decode import AbsurdOutput, DecodeSettings
from perception_nodes.core.frame import Detections
from perception_nodes.core.geometry import intersections_and_unions
from perception_nodes.core.inference import BackendError
from perception_nodes.evaluation.detector import renumbered
from perception_nodes.networks.class_names import indices_of
from perception_nodes.networks.model import Model

SURE_SCORE = DecodeSettings.score_threshold + 0.05
"""An object with a lower score may fall below the threshold of reporting by rounding alone."""
SAME_IOU = 0.5


@dataclass(frozen=True)
class Agreement:
    """How many of the sure objects of two networks both of them detect.

    Attributes:
        reference: number of sure objects of the reference.
        other: number of sure objects of the other network.
        shared: how many of all these are also reported by the respective other network.
    """

    reference: int
    other: int
    shared: int

    @property
    def share(self) -> float:
        """Share of all sure objects that both detect; 0 if there are none."""
        return self.shared / max(self.reference + self.other, 1)


def detect(
    model: Model,
    backend: Backend,
    frames: Sequence[NDArray[np.uint8]],
    progress: Callable[[int, int], None] | None = None,
) -> list[Detections]:
    """Objects as the run time reports them, in pixels of the network's input.

    Args:
        model: the model.
        backend: the runtime, with the model loaded.
        frames: uint8 [height, width, 3] BGR each, letterboxed to the model's input.
        progress: called with the number of frames done and the number of all frames.

    Raises:
        BackendError: the runtime failed, or its output cannot be that of a detector.
    """
    decoder = model.decoder(DecodeSettings())
    found = []
    for done, frame in enumerate(frames, start=1):
        heads = backend.infer(frame)
        try:
            found.append(decoder.decode(heads.boxes, heads.classes))
        except AbsurdOutput as error:
            raise BackendError(f"{model.path}: {error}") from error
        if progress is not None:
            progress(done, len(frames))
    return found


def in_classes_of(model: Model, other: Model, found: Sequence[Detections]) -> list[Detections]:
    """Detections of another model in this model's classes; those without a class are dropped."""
    if model.classes == other.classes:  # even if two of them differ only in spelling
        return list(found)
    indices = [indices_of([name], model.classes) for name in other.classes]
    table = np.array([index[0] if index else -1 for index in indices], np.int64)
    return [renumbered(one, table) for one in found]


def agreement(reference: Sequence[Detections], other: Sequence[Detections]) -> Agreement:
    """Compare detections on the same frames, in the same classes."""
    ours = theirs = shared = 0
    for one, two in zip(reference, other, strict=True):
        same = _same(one, two)
        for sure, seen in ((one.scores, same.any(axis=1)), (two.scores, same.any(axis=0))):
            shared += int(np.count_nonzero((sure >= SURE_SCORE) & seen))
        ours += int(np.count_nonzero(one.scores >= SURE_SCORE))
        theirs += int(np.count_nonzero(two.scores >= SURE_SCORE))
    return Agreement(ours, theirs, shared)


def _same(one: Detections, two: Detections) -> NDArray[np.bool_]:
    """Whether an object of one is that of the other, for every pair, bool [n, m]."""
    boxes = one.boxes.astype(np.float64), two.boxes.astype(np.float64)
    shared, union = intersections_and_unions(*boxes)
    near = (shared > 0) & (shared >= SAME_IOU * union)
    same: NDArray[np.bool_] = near & (one.classes[:, None] == two.classes[None])
    return same
