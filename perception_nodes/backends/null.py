"""A backend that detects nothing, for tests and for measuring everything except inference."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendInfo, BackendSettings
from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.networks.model import Model


class Backend:
    """Reads the image, as a real backend does, and reports no objects.

    Of the settings, only `max_batch` has an effect.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self._max_batch, self._heads = settings.max_batch, HeadTensors([], [])

    def load(self, model: Model) -> BackendInfo:
        """Prepare tensors of the model's shapes."""
        boxes, classes = model.outputs.shapes(model.input, len(model.classes))
        self._heads = HeadTensors(
            [np.zeros(shape, np.float32) for shape in boxes],
            [np.full(shape, model.outputs.nothing, np.float32) for shape in classes],
        )
        return BackendInfo("null", "none", "none", 1, self._max_batch)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Read every byte of the image once."""
        if not self._heads.boxes:
            raise BackendError("null: no model is loaded")
        image.sum()
        return self._heads

    def infer_batch(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[HeadTensors]:
        """Read the images one after the other."""
        return [self.infer(image) for image in images]

    def close(self) -> None:
        """Drop the tensors."""
        self._heads = HeadTensors([], [])
