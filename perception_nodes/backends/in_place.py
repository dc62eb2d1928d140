"""Models that read camera frames in place: on a GPU, or on the CPU as its stand-in."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from perception_nodes.backends.contract import Backend
from perception_nodes.backends.gpu_backend import GpuBackend
from perception_nodes.core.decode import AbsurdOutput, DecodeSettings
from perception_nodes.core.frame import FrameHeader, FrameRejected, ImageView, placement_key
from perception_nodes.core.geometry import PADDING_VALUE
from perception_nodes.core.inference import Answer, BackendError, BackendLost
from perception_nodes.gpu.cuda import CudaError
from perception_nodes.gpu.cuda.errors import OUT_OF_MEMORY
from perception_nodes.gpu.decode_job import Head
from perception_nodes.gpu.stages import Decoding, GpuDetector
from perception_nodes.networks.model import LevelsSpec, Model
from perception_nodes.preprocess.placement import Placement


class InPlaceOnGpu:
    """One CUDA graph and stream for each camera, from its frames in shared memory to boxes.

    Attributes:
        max_batch: number of cameras whose frames can be processed at once.
    """

    def __init__(
        self, backend: GpuBackend, model: Model, decode: DecodeSettings, cameras: Sequence[str]
    ) -> None:
        """Compile the kernels, or read them from the cache, and allocate memory.

        Raises:
            BackendError: a kernel cannot be compiled or loaded, or there is no room.
        """
        self.max_batch = len(cameras)
        size = model.input.width, model.input.height
        outputs = model.outputs
        if not isinstance(outputs, LevelsSpec) or decode.across_classes:
            why = "on the GPU only raw heads (levels) are decoded, and suppressed by class"
            raise BackendError(f"{model.name}: {why}; use preprocess_on:=cpu")
        if model.input.padding != PADDING_VALUE:
            grey = f"of grey {PADDING_VALUE}, the model wants {model.input.padding}"
            remedy = "use preprocess_on:=cpu"
            raise BackendError(f"{model.name}: the GPU draws borders {grey}; {remedy}")
        head = Head(*size, tuple(outputs.strides), outputs.reg_max, len(model.classes))
        self._cameras: dict[bytes, tuple[GpuDetector, PlacementCache]] = {}
        for camera in cameras:
            network = backend.another_network()
            self._device = device = network.device
            stream = device.stream()
            decoding = Decoding(device, head, decode, network.heads, stream)
            detector = GpuDetector(stream, size, network, decoding)
            self._cameras[camera.encode()] = detector, PlacementCache()

    def prepare(self, header: FrameHeader, image: ImageView) -> None:
        """Make the camera's graph; see `InPlaceBackend`."""
        detector, placements = self._cameras[header.camera]
        self._device.make_current()
        detector.prepare(image, placements.of(header, image))

    def infer(self, frames: Sequence[tuple[FrameHeader, ImageView]]) -> list[Answer]:
        """Launch the graphs of all frames, then wait for the boxes of each.

        Raises:
            BackendLost: the device failed; CUDA answers every later call with the same error.
        """
        try:
            self._device.make_current()
            launched = [self._launch(header, image) for header, image in frames]
            return [_answer_of(one) for one in launched]
        except CudaError as error:
            raise BackendLost(str(error)) from error

    def _launch(
        self, header: FrameHeader, image: ImageView
    ) -> GpuDetector | FrameRejected | BackendError:
        detector, placements = self._cameras[header.camera]
        try:
            detector.launch(image, placements.of(header, image))
        except (FrameRejected, BackendError) as error:
            # If there is no room for this camera's graph, those of the others still run.
            if isinstance(error, CudaError) and error.name != OUT_OF_MEMORY:
                raise
            return error
        return detector

    def close(self) -> None:
        """Release the frames' memory and the graphs; the backend frees everything else."""
        for detector, _ in self._cameras.values():
            # After a kernel has failed, every call fails, including these.
            with suppress(CudaError):
                self._device.make_current()
                detector.close()


def _answer_of(launched: GpuDetector | FrameRejected | BackendError) -> Answer:
    if not isinstance(launched, GpuDetector):
        return launched
    try:
        return launched.result().detections(), launched.copies
    except AbsurdOutput as error:
        return error


class InPlaceOnCpu:
    """Preprocesses a frame on the CPU right before a backend with the model loaded infers it."""

    max_batch = 1

    def __init__(self, backend: Backend, model: Model, cameras: Sequence[str]) -> None:
        self._backend = backend
        self._cameras = {
            camera.encode(): (model.input.preprocessor(), PlacementCache()) for camera in cameras
        }
        self._image = np.empty((model.input.height, model.input.width, 3), np.uint8)

    def prepare(self, header: FrameHeader, image: ImageView) -> None:
        """Compute the camera's maps; see `InPlaceBackend`."""
        preprocessor, placements = self._cameras[header.camera]
        preprocessor.scale(image, placements.of(header, image), self._image)

    def infer(self, frames: Sequence[tuple[FrameHeader, ImageView]]) -> list[Answer]:
        """Rectify and scale the frame, and run the network; see `InPlaceBackend`."""
        ((header, image),) = frames
        preprocessor, placements = self._cameras[header.camera]
        try:
            copies = preprocessor.scale(image, placements.of(header, image), self._image)
        except FrameRejected as error:
            return [error]
        return [(self._backend.infer(self._image), copies - image.copies)]

    def close(self) -> None:
        """Do nothing: no memory is held."""


class PlacementCache:
    """Gives the same `Placement` object for as long as slots' headers describe the same one."""

    def __init__(self) -> None:
        self._key = b""
        self._placement: Placement

    def of(self, header: FrameHeader, image: ImageView) -> Placement:
        """The placement of a frame, from its slot's header.

        Raises:
            FrameRejected: the header describes a frame of another size.
        """
        size, own = (image.width, image.height), (header.source_width, header.source_height)
        if size != own:
            described, given = (f"{width}x{height}" for width, height in (own, size))
            raise FrameRejected(
                f"the slot describes a frame of {described}, the camera's has {given}"
            )
        key = placement_key(header)
        if key != self._key:
            self._placement, self._key = Placement.of(header), key
        return self._placement


def in_place(
    backend: Backend, model: Model, decode: DecodeSettings, cameras: Sequence[str]
) -> InPlaceOnGpu | InPlaceOnCpu:
    """Let a loaded model read the frames of these cameras in place.

    Raises:
        BackendError: a kernel cannot be compiled or loaded, or there is no room.
    """
    if isinstance(backend, GpuBackend):
        return InPlaceOnGpu(backend, model, decode, cameras)
    return InPlaceOnCpu(backend, model, cameras)
