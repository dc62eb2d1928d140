"""The integer network as a backend: slow, and the reference for every other backend."""

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import (
    BackendInfo,
    BackendSettings,
    check_heads,
    check_image,
)
from perception_nodes.backends.model import Model
from perception_nodes.backends.qdq import read_network
from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.core.integer import Network


class Backend:
    """One network; the settings have no effect, NumPy chooses its threads itself.

    Attributes:
        network: the loaded network; `Network.trace` gives all its layers for comparison.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self.network: Network | None = None
        self._names: tuple[list[str], list[str]] = ([], [])
        self._heads = HeadTensors([], [])

    def load(self, model: Model) -> BackendInfo:
        """Read the network and run it once."""
        network = read_network(model.path)
        boxes, classes = model.outputs.box, model.outputs.classes
        for name in (*boxes, *classes):
            if name not in network.fractions:
                raise BackendError(f"{model.path} has no output {name!r}")
        self.network, self._names = network, (boxes, classes)
        self._heads = HeadTensors([], [])
        blank = np.zeros((model.input.height, model.input.width, 3), np.uint8)
        check_heads(model, self.infer(blank))
        return BackendInfo("golden", f"NumPy {np.__version__}", "CPU", 1)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network in integers."""
        if self.network is None:
            raise BackendError("golden: no model is loaded")
        check_image("golden", image, self.network.width, self.network.height)
        found = self.network.run(image)
        boxes, classes = ([found[name] for name in names] for names in self._names)
        if not self._heads.boxes:
            self._heads = HeadTensors(boxes, classes)
        for kept, new in zip(
            (*self._heads.boxes, *self._heads.classes), (*boxes, *classes), strict=True
        ):
            kept[:] = new
        return self._heads

    def close(self) -> None:
        """Drop the network."""
        self.network = None
        self._heads = HeadTensors([], [])
