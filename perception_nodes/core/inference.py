"""What the core asks of a runtime: run a model on frames; and what it predicts about its cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.counters import EngineCounters
from perception_nodes.core.decode import AbsurdOutput, Decoder
from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.frame import Detections, FrameHeader, FrameRejected, ImageView
from perception_nodes.core.prediction import CostPrediction

BEST_TRIED_EVERY = 30
"""While the best model, or a batch, is predicted to be too slow and something else runs instead,
every 30th call tries it all the same, because it may have become fast enough again."""
CERTAIN = 8.0
"""A class value beyond this is a score below 0.0004 or above 0.9996; a runtime may end there."""
Progress = Callable[[int, int], None]
"""Called with the number of steps done and the total number of steps."""


@dataclass(frozen=True)
class HeadTensors:
    """Raw output of a detector.

    Attributes:
        boxes, classes: float32 tensors in the shapes that the model's decoder reads. Our own
            networks give logits [1, c, h, w], one tensor a level; those of boxes may be views of
            [1, h, w, c].
        engine: the accelerator's counters; None for a runtime without any.
    """

    boxes: Sequence[NDArray[np.float32]]
    classes: Sequence[NDArray[np.float32]]
    engine: EngineCounters | None = None


class BackendError(PerceptionError):
    """A backend could not be loaded or could not infer; the text says why and what to do."""


class BackendLost(BackendError):
    """A backend that worked cannot work again in this process; the only remedy is to end it."""


Answer = tuple[HeadTensors | Detections, int] | FrameRejected | BackendError | AbsurdOutput
"""The result for one frame. On success: the head tensors (or, if the backend decodes too, the
objects in source pixels) and the number of copies of the frame's pixels that were made. Otherwise
the error."""


class InferenceBackend(Protocol):
    """What the pipeline needs of a backend."""

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on uint8 [height, width, 3] BGR, which is read in place.

        The tensors returned are overwritten by the next call.
        """


class BatchBackend(InferenceBackend, Protocol):
    """A backend that can work on several images at once."""

    def infer_batch(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[HeadTensors]:
        """Run the network on each image; the numbers are the same as those of `infer`.

        The tensors returned are overwritten by the next call.
        """


Frame = NDArray[np.uint8] | ImageView
"""The input of a model: a slot's pixels, uint8 [height, width, 3] BGR; or the camera's frame as it
came, for a backend that reads frames in place."""


class InPlaceBackend(Protocol):
    """A backend that reads a camera's frames where they lie and preprocesses them itself."""

    def prepare(self, header: FrameHeader, image: ImageView) -> None:
        """Do the one-time work for frames of this kind, so that `infer` need not do it.

        Raises:
            FrameRejected: the frame cannot be read.
            BackendError: the backend failed.
        """

    def infer(self, frames: Sequence[tuple[FrameHeader, ImageView]]) -> Sequence[Answer]:
        """Run the network on frames of different cameras.

        Args:
            frames: for each frame the slot's header, which says where the frame goes in the
                network's input, and the frame; its pixels are not needed after the call.

        Raises:
            BackendError: the backend failed.
        """


class Candidate:
    """A loaded model and predictions of its cost.

    Attributes:
        name: name of the model.
        backend: runs the model on slots' pixels.
        in_place: runs the model on camera frames as they come; None if that is not wanted.
        decoder: decodes the model's outputs.
        calls: predicted costs of 1, 2, ... frames at once, from the beginning of their inference to
            the publication of the last one's detections.
        alone: the first of them, of a single frame.
        look: predicted cost of a second look, from the end of the look before it to the end of its
            postprocessing.
    """

    def __init__(
        self,
        name: str,
        backend: InferenceBackend,
        decoder: Decoder,
        inference_ns: int,
        batch_backend: BatchBackend | None = None,
        batches_ns: Sequence[int] = (),
        in_place: InPlaceBackend | None = None,
    ) -> None:
        """Begin with the durations that were measured when the model was loaded."""
        self.name = name.encode()
        self.backend = backend
        self.in_place = in_place
        self.batch_backend = batch_backend
        self.decoder = decoder
        self.calls = [CostPrediction(call_ns) for call_ns in (inference_ns, *batches_ns)]
        self.alone = self.calls[0]
        self.look = CostPrediction(inference_ns)
        self._inferred_alone = 0

    def infer(self, frames: Sequence[tuple[FrameHeader, Frame]]) -> Sequence[Answer]:
        """Run the model on frames, which are either all slots' pixels or all camera frames.

        Raises:
            BackendError: the backend failed.
        """
        in_place = [(header, frame) for header, frame in frames if isinstance(frame, ImageView)]
        if in_place:
            assert self.in_place is not None
            return self.in_place.infer(in_place)
        images = [frame for _, frame in frames if not isinstance(frame, ImageView)]
        if len(images) == 1:
            return [(self.backend.infer(images[0]), 0)]
        assert self.batch_backend is not None
        return [(heads, 0) for heads in self.batch_backend.infer_batch(images)]

    def inferred_alone(self, waiting: int) -> None:
        """Note that one frame was inferred alone while `waiting` frames waited.

        At every `BEST_TRIED_EVERY`-th such call the prediction for the batch forgets its longest
        sample. If it did so at each call, a batch that is always slow would soon look fast.
        """
        if 2 <= waiting <= len(self.calls):
            self._inferred_alone += 1
            if self._inferred_alone % BEST_TRIED_EVERY == 0:
                self.calls[waiting - 1].passed_over()
