"""Models that read camera frames where they lie: on a GPU, or on the CPU in its stead."""

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, runtime_checkable

import numpy as np

from perception_nodes.backends.contract import Backend
from perception_nodes.backends.model import Model
from perception_nodes.core.decode import AbsurdOutput, DecodeSettings
from perception_nodes.core.frame import FrameHeader, FrameRejected, ImageView, placement_key
from perception_nodes.core.inference import Answer, BackendError, BackendLost
from perception_nodes.gpu.cuda import CudaError
from perception_nodes.gpu.cuda.errors import OUT_OF_MEMORY
from perception_nodes.gpu.decode_job import Head
from perception_nodes.gpu.preprocess_job import InputFormat
from perception_nodes.gpu.stages import Decoding, GpuDetector, NetworkStage
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.placement import Placement


@runtime_checkable
class DeviceBackend(Protocol):
    """A backend whose networks run on a GPU."""

    def another_network(self) -> NetworkStage:
        """The loaded model once more, to be run beside the others: with memory of its own.

        Raises:
            BackendError: there is no room for it.
        """
        ...


class InPlaceOnGpu:
    """One graph a camera, from its frames in shared memory to boxes, on a stream of its own.

    Attributes:
        max_batch: cameras whose frames can be on their way at once.
    """

    def __init__(
        self, backend: DeviceBackend, model: Model, decode: DecodeSettings, cameras: Sequence[str]
    ) -> None:
        """Compile the kernels, or take them from the cache.

        Raises:
            BackendError: they cannot be compiled or loaded, or there is no room.
        """
        self._thread = threading.get_ident()
        self.max_batch = len(cameras)
        size = model.input.width, model.input.height
        outputs = model.outputs
        head = Head(*size, tuple(outputs.strides), outputs.reg_max, len(model.classes))
        self._cameras: dict[bytes, tuple[GpuDetector, PlacementCache]] = {}
        for camera in cameras:
            network = backend.another_network()
            self._device = device = network.device
            stream = device.stream()
            decoding = Decoding(device, head, decode, network.heads, stream)
            detector = GpuDetector(
                device, stream, InputFormat(*size), network.image, network.enqueue, decoding
            )
            self._cameras[camera.encode()] = detector, PlacementCache()

    def prepare(self, header: FrameHeader, image: ImageView) -> None:
        """Make the camera's graph; see `InPlaceBackend`."""
        detector, placements = self._cameras[header.camera]
        self._make_current()
        detector.prepare(image, placements.of(header, image))

    def infer(self, frames: Sequence[tuple[FrameHeader, ImageView]]) -> list[Answer]:
        """Launch all cameras' graphs, then wait for the boxes of each.

        Raises:
            BackendLost: the device failed; CUDA answers every later call with the same error.
        """
        try:
            self._make_current()
            begun = [self._begin(header, image) for header, image in frames]
            return [_end(one) for one in begun]
        except CudaError as error:
            raise BackendLost(str(error)) from error

    def _begin(
        self, header: FrameHeader, image: ImageView
    ) -> GpuDetector | FrameRejected | BackendError:
        detector, placements = self._cameras[header.camera]
        try:
            detector.launch(image, placements.of(header, image))
        except (FrameRejected, BackendError) as error:
            # Without room for this camera's graph there is still that of the others.
            if isinstance(error, CudaError) and error.name != OUT_OF_MEMORY:
                raise
            return error
        return detector

    def close(self) -> None:
        """Let go of the frames' memory and the graphs; all else goes with the backend."""
        for detector, _ in self._cameras.values():
            # After a kernel failed every call does, and so does this.
            with suppress(CudaError):
                self._make_current()
                detector.close()

    def _make_current(self) -> None:
        """A node loads in one thread what it uses in another."""
        if self._thread != threading.get_ident():
            self._device.make_current()
            self._thread = threading.get_ident()


def _end(begun: GpuDetector | FrameRejected | BackendError) -> Answer:
    if not isinstance(begun, GpuDetector):
        return begun
    try:
        return begun.result().detections(), begun.copies
    except AbsurdOutput as error:
        return error


class InPlaceOnCpu:
    """Preprocesses a frame on the CPU right before it is inferred."""

    max_batch = 1

    def __init__(self, backend: Backend, model: Model, cameras: Sequence[str]) -> None:
        """Use a backend in which the model is loaded."""
        width, height = model.input.width, model.input.height
        self._backend = backend
        self._cameras = {
            camera.encode(): (Preprocessor(width, height, undistort=False), PlacementCache())
            for camera in cameras
        }
        self._image = np.empty((height, width, 3), np.uint8)

    def prepare(self, header: FrameHeader, image: ImageView) -> None:
        """Make the camera's maps; see `InPlaceBackend`."""
        preprocessor, placements = self._cameras[header.camera]
        preprocessor.scale(image, placements.of(header, image), self._image)

    def infer(self, frames: Sequence[tuple[FrameHeader, ImageView]]) -> list[Answer]:
        """Scale, rectify, run the network; see `InPlaceBackend`."""
        ((header, image),) = frames
        preprocessor, placements = self._cameras[header.camera]
        try:
            copies = preprocessor.scale(image, placements.of(header, image), self._image)
        except FrameRejected as error:
            return [error]
        return [(self._backend.infer(self._image), copies - image.copies)]

    def close(self) -> None:
        """Nothing is held."""


class PlacementCache:
    """The placement that a slot's header tells, the same object as long as it tells the same."""

    def __init__(self) -> None:
        """None is known yet."""
        self._key = b""
        self._placement: Placement

    def of(self, header: FrameHeader, image: ImageView) -> Placement:
        """What the header says of a frame.

        Raises:
            FrameRejected: it says it of one of another size.
        """
        if (image.width, image.height) != (header.source_width, header.source_height):
            raise FrameRejected(
                f"a frame of {image.width}x{image.height} has the place of one of "
                f"{header.source_width}x{header.source_height}"
            )
        key = placement_key(header)
        if key != self._key:
            self._placement, self._key = Placement.of(header), key
        return self._placement


def in_place(
    backend: Backend, model: Model, decode: DecodeSettings, cameras: Sequence[str]
) -> InPlaceOnGpu | InPlaceOnCpu:
    """Have a loaded model read the frames of these cameras where they lie.

    Raises:
        BackendError: the kernels cannot be compiled or loaded, or there is no room.
    """
    if isinstance(backend, DeviceBackend):
        return InPlaceOnGpu(backend, model, decode, cameras)
    return InPlaceOnCpu(backend, model, cameras)
