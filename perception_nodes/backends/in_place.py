"""Models that read camera frames where they lie: on a GPU, or on the CPU in its stead."""

import threading
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from perception_nodes.backends.base import Backend
from perception_nodes.backends.cuda import CudaError
from perception_nodes.backends.cuda.network import DeviceNetwork
from perception_nodes.backends.model import Model
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import Detections, FrameHeader, ImageView, placement_key
from perception_nodes.core.pipeline import BackendLost, HeadTensors
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.gpu import Decoding, GpuDetector
from perception_nodes.preprocess.head import Head
from perception_nodes.preprocess.placement import Placement
from perception_nodes.preprocess.plan import Output


@runtime_checkable
class DeviceBackend(Protocol):
    """A backend whose network is on a GPU.

    Attributes:
        network: the loaded one.
    """

    network: DeviceNetwork


class InPlaceOnGpu:
    """One graph a camera, from its frames in shared memory to boxes, on a stream of its own.

    The network and its memory are shared: one frame is on its way at a time.
    """

    def __init__(
        self, network: DeviceNetwork, model: Model, decode: DecodeSettings, cameras: Sequence[str]
    ) -> None:
        """Compile the kernels, or take them from the cache.

        Raises:
            CudaError: they cannot be compiled or loaded.
        """
        self._device = device = network.device
        self._thread = threading.get_ident()
        size = model.input.width, model.input.height
        outputs = model.outputs
        head = Head(*size, tuple(outputs.strides), outputs.reg_max, len(model.classes))
        self._cameras: dict[bytes, tuple[GpuDetector, KnownPlace]] = {}
        for camera in cameras:
            stream = device.stream()
            decoding = Decoding(device, head, decode, network.heads, stream)
            detector = GpuDetector(
                device, stream, Output(*size), network.image, network.enqueue, decoding
            )
            self._cameras[camera.encode()] = detector, KnownPlace()

    def prepare(self, header: FrameHeader, image: ImageView) -> None:
        """Make the camera's graph; see `InPlaceBackend`."""
        detector, known = self._cameras[header.camera]
        self._make_current()
        detector.prepare(image, known.of(header))

    def infer(self, header: FrameHeader, image: ImageView) -> tuple[Detections, int]:
        """Launch the camera's graph, wait for its boxes.

        Raises:
            FrameRejected: the frame cannot be read.
            AbsurdOutput: the network's output cannot be a detection.
            BackendLost: the device failed; CUDA answers every later call with the same error.
        """
        detector, known = self._cameras[header.camera]
        self._make_current()
        try:
            return detector.detect(image, known.of(header)), detector.copies
        except CudaError as error:
            raise BackendLost(str(error)) from error

    def close(self) -> None:
        """Let go of the frames' memory and the graphs; all else goes with the backend."""
        for detector, _ in self._cameras.values():
            detector.close()

    def _make_current(self) -> None:
        """A node loads in one thread what it uses in another."""
        if self._thread != threading.get_ident():
            self._device.make_current()
            self._thread = threading.get_ident()


class InPlaceOnCpu:
    """Preprocesses a frame on the CPU right before it is inferred."""

    def __init__(self, backend: Backend, model: Model, cameras: Sequence[str]) -> None:
        """Use a backend in which the model is loaded."""
        width, height = model.input.width, model.input.height
        self._backend = backend
        self._cameras = {
            camera.encode(): (Preprocessor(width, height, undistort=False), KnownPlace())
            for camera in cameras
        }
        self._image = np.empty((height, width, 3), np.uint8)

    def prepare(self, header: FrameHeader, image: ImageView) -> None:
        """Make the camera's maps; see `InPlaceBackend`."""
        preprocessor, known = self._cameras[header.camera]
        preprocessor.scale(image, known.of(header), self._image)

    def infer(self, header: FrameHeader, image: ImageView) -> tuple[HeadTensors, int]:
        """Scale, rectify, run the network; see `InPlaceBackend`."""
        preprocessor, known = self._cameras[header.camera]
        copies = preprocessor.scale(image, known.of(header), self._image)
        return self._backend.infer(self._image), copies - image.copies

    def close(self) -> None:
        """Nothing is held."""


class KnownPlace:
    """The placement that a slot's header tells, the same object as long as it tells the same."""

    def __init__(self) -> None:
        """None is known yet."""
        self._key = b""
        self._placement: Placement

    def of(self, header: FrameHeader) -> Placement:
        """What the header says."""
        key = placement_key(header)
        if key != self._key:
            self._placement, self._key = Placement.of(header), key
        return self._placement


def in_place(
    backend: Backend, model: Model, decode: DecodeSettings, cameras: Sequence[str]
) -> InPlaceOnGpu | InPlaceOnCpu:
    """Have a loaded model read the frames of these cameras where they lie.

    Raises:
        CudaError: the kernels cannot be compiled or loaded.
    """
    if isinstance(backend, DeviceBackend):
        return InPlaceOnGpu(backend.network, model, decode, cameras)
    return InPlaceOnCpu(backend, model, cameras)
