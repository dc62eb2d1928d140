"""A network on an NVIDIA GPU that runs on images of the host, as one captured graph."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.contract import check_image
from perception_nodes.core.inference import BackendLost, HeadTensors
from perception_nodes.gpu.cuda import CudaError, CudaGraph, Device, Stream, Uncaptured


@dataclass(frozen=True)
class CapturedNetwork:
    """A network with page-locked memory for its image and its heads.

    Attributes:
        backend: name of the backend, for errors.
        device: device that it runs on.
        stream: stream that it runs on.
        graph: brings the image to the network, runs it, and brings its outputs to the heads.
        image: uint8 [height, width, 3] BGR, which the graph reads.
        heads: the head's tensors, which the graph writes.
    """

    backend: str
    device: Device
    stream: Stream
    graph: CudaGraph | Uncaptured
    image: NDArray[np.uint8]
    heads: HeadTensors

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on a copy of the image; the next call overwrites the result.

        Args:
            image: uint8 [height, width, 3] BGR.

        Raises:
            BackendError: the image has another type or size than the network's input.
            BackendLost: the device failed; CUDA answers every later call with the same error.
        """
        height, width, _ = self.image.shape
        check_image(self.backend, image, width, height)
        np.copyto(self.image, image)
        try:
            self.device.make_current()
            try:
                self.graph.launch(self.stream)
            finally:  # also where TensorRT refuses: only the device tells whether it has failed
                self.stream.wait()
        except CudaError as error:
            raise BackendLost(str(error)) from error
        return self.heads
