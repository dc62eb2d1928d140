"""What the core asks of a runtime: models to run, what they say of a frame, and what that costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.counters import EngineCounters
from perception_nodes.core.decode import AbsurdOutput, Decoder
from perception_nodes.core.frame import Detections, FrameHeader, FrameRejected, ImageView
from perception_nodes.core.prediction import CostPrediction

BEST_TRIED_EVERY = 30
"""Of calls in a row that are made in another way since the best one, or a batch, is too slow, every
so manieth is made in that way all the same: it may be faster again."""


Progress = Callable[[int, int], None]
"""Is told what is done and what there is to do in all."""


@dataclass(frozen=True)
class HeadTensors:
    """Raw output of a detector.

    Attributes:
        boxes, classes: logits, a tensor a level, float32 [1, c, h, w].
        engine: what an accelerator counted meanwhile; None where nothing counts.
    """

    boxes: Sequence[NDArray[np.float32]]
    classes: Sequence[NDArray[np.float32]]
    engine: EngineCounters | None = None


class BackendError(RuntimeError):
    """A backend could not be loaded or could not infer; the text says why and what to do."""


class BackendLost(BackendError):
    """A backend that worked will not work again in this process, whose end is the only remedy."""


Answer = tuple[HeadTensors | Detections, int] | FrameRejected | BackendError | AbsurdOutput
"""What a network says of a frame, or the objects where the backend decodes that too, in source
pixels; and copies of the frame's pixels that were made. Or why there is no such thing."""


class InferenceBackend(Protocol):
    """What the pipeline needs of a backend."""

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on uint8 [height, width, 3] BGR, in place.

        The tensors live until the next call.
        """
        ...


class BatchBackend(InferenceBackend, Protocol):
    """A backend that can work on several images at once."""

    def infer_batch(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[HeadTensors]:
        """Run the network on each image as `infer` does; gives the same numbers.

        The tensors live until the next call.
        """
        ...


Frame = NDArray[np.uint8] | ImageView
"""What a model is run on: a slot's pixels, uint8 [height, width, 3] BGR, or a camera's frame as it
came, for a backend that reads it in place."""


class InPlaceBackend(Protocol):
    """A backend that reads cameras' frames where they lie: preprocessing is its own."""

    def prepare(self, header: FrameHeader, image: ImageView) -> None:
        """Do what is done once for frames like this one, so that `infer` need not.

        Raises:
            FrameRejected: the frame cannot be read.
            BackendError: the backend failed.
        """
        ...

    def infer(self, frames: Sequence[tuple[FrameHeader, ImageView]]) -> Sequence[Answer]:
        """Run the network on frames of different cameras.

        Args:
            frames: a slot's header, which tells the place in the network's input, and the frame;
                its pixels need not stay once this returns.

        Raises:
            BackendError: the backend failed.
        """
        ...


class Candidate:
    """A loaded model and what it is expected to cost.

    Attributes:
        name: the model's.
        backend: runs it.
        in_place: runs it on a camera's frames as they come, where that is wanted.
        decoder: of its outputs.
        inference, postprocess: predictions.
        batches: predictions of inferring 2, 3, ... frames at once.
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
        """Take a model; `inference_ns` and `batches_ns` are what calls took when it was loaded."""
        self.name = name.encode()
        self.backend = backend
        self.in_place = in_place
        self.batch_backend = batch_backend
        self.decoder = decoder
        self.inference = CostPrediction(inference_ns)
        self.batches = [CostPrediction(batch_ns) for batch_ns in batches_ns]
        self.postprocess = CostPrediction(0)
        self._inferred_alone = 0

    def infer(self, frames: Sequence[tuple[FrameHeader, Frame]]) -> Sequence[Answer]:
        """Run the model on frames, all slots' pixels or all as they came.

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

    @property
    def calls(self) -> list[CostPrediction]:
        """Predictions of inferring 1, 2, ... frames at once."""
        return [self.inference, *self.batches]

    def inferred_alone(self, waiting: int) -> None:
        """One frame was inferred of so many that waited; now and then the batch has another chance.

        Not each time: of something that is slow as a rule, all that tells so would be forgotten.
        """
        if 2 <= waiting <= len(self.batches) + 1:
            self._inferred_alone += 1
            if self._inferred_alone % BEST_TRIED_EVERY == 0:
                self.batches[waiting - 2].passed_over()
