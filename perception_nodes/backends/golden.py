"""The integer network as a backend: slow, and the reference for every other backend."""

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendInfo, BackendSettings, check_image, heads_of
from perception_nodes.backends.qdq import read_network
from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.core.integer import Network
from perception_nodes.networks.model import Model


class Backend:
    """One network; the settings have no effect, NumPy chooses its threads itself.

    Attributes:
        network: the loaded network; `Network.trace` gives all its layers for comparison.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self.network: Network | None = None
        self._model: Model

    def load(self, model: Model) -> BackendInfo:
        """Read the network and run it once."""
        self.network, self._model = read_network(model.path), model
        self.infer(np.zeros((model.input.height, model.input.width, 3), np.uint8))
        return BackendInfo("golden", f"NumPy {np.__version__}", "CPU", 1)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network in integers."""
        if self.network is None:
            raise BackendError("golden: no model is loaded")
        check_image("golden", image, self.network.width, self.network.height)
        return heads_of(self._model, self.network.run(image))

    def close(self) -> None:
        """Drop the network."""
        self.network = None
