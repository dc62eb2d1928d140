"""A network on an NVIDIA GPU that runs on images of the host, as one captured graph."""

from abc import ABC, abstractmethod
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendInfo, check_image
from perception_nodes.core.inference import BackendError, BackendLost, HeadTensors
from perception_nodes.gpu.cuda import CudaError, CudaGraph, Device, Stream, Uncaptured, open_device
from perception_nodes.gpu.stages import NetworkStage
from perception_nodes.networks.model import Model


class GpuBackend(ABC):
    """A backend on an NVIDIA GPU, which owns the device while a model is loaded."""

    name: str

    def __init__(self) -> None:
        self._device: Device | None = None
        # Brings the image to the network, runs it, and brings its outputs to the heads.
        self._graph: CudaGraph | Uncaptured | None = None
        self._stream: Stream
        self._image: NDArray[np.uint8]  # [height, width, 3] BGR, page-locked, like the heads
        self._heads: HeadTensors

    def load(self, model: Model) -> BackendInfo:
        """Load a model, and run it once.

        Raises:
            NotBuilt: it must be built first, and the settings do not allow that.
            BackendError: there is no GPU, or the model is refused.
        """
        self.close()
        self._device = device = open_device()
        try:
            runtime = self._load(model, device)
            self.infer(np.zeros((model.input.height, model.input.width, 3), np.uint8))
        except BaseException:
            self.close()
            raise
        return BackendInfo(self.name, runtime, f"{device.facts.name} (SM{device.facts.sm})", 1)

    @abstractmethod
    def another_network(self) -> NetworkStage:
        """Another instance of the loaded model, with memory of its own, to run beside the others.

        Raises:
            BackendError: no model is loaded, or the GPU has no room.
        """

    @abstractmethod
    def _load(self, model: Model, device: Device) -> str:
        """Load a model and capture its graph; return facts about the runtime."""

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on a copy of the image; the next call overwrites the result.

        Args:
            image: uint8 [height, width, 3] BGR.

        Raises:
            BackendError: the image has another type or size than the network's input.
            BackendLost: the device failed; CUDA answers every later call with the same error.
        """
        if self._graph is None:
            raise BackendError(f"{self.name}: no model is loaded")
        height, width, _ = self._image.shape
        check_image(self.name, image, width, height)
        np.copyto(self._image, image)
        try:
            self._current_device()
            try:
                self._graph.launch(self._stream)
            finally:  # also where TensorRT refuses: only the device tells whether it has failed
                self._stream.wait()
        except CudaError as error:
            raise BackendLost(str(error)) from error
        return self._heads

    def _current_device(self) -> Device:
        """The device, for this thread."""
        if self._device is None:
            raise BackendError(f"{self.name}: no model is loaded")
        self._device.make_current()
        return self._device

    def close(self) -> None:
        """Free everything on the device."""
        self._graph = None
        if self._device is not None:
            # After a kernel has failed, every call fails, including these.
            with suppress(CudaError):
                self._device.make_current()
            with suppress(CudaError):
                self._device.close()
            self._device = None
