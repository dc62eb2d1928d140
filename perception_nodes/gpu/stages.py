"""The stages of a frame that run on a GPU: preprocessing, the network, and decoding.

Each stage puts its kernels on a stream; together they become one graph, which is launched once for
each frame. The address of a frame's pixels and its ticket change from frame to frame and are passed
through page-locked memory. Nothing allocates after the graph was made.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.gpu import cuda, decode_job, preprocess_job
from perception_nodes.gpu.cuda.memory import packed
from perception_nodes.gpu.frame_memory import FrameMemory
from perception_nodes.gpu.frame_transfer import FrameTransfer
from perception_nodes.gpu.nvrtc import load_kernels
from perception_nodes.preprocess.formats import check_in_place
from perception_nodes.preprocess.placement import Placement


@dataclass(frozen=True)
class NetworkStage:
    """A network as a stage of a graph.

    Attributes:
        device: device that it runs on.
        image: device address of its input.
        heads: for each level the device addresses of its box and class logits, float32.
        enqueue: puts a run on a stream. Runs use the same memory, so one must end before the next.
        capturable: whether runs on a stream can be captured in a graph.
    """

    device: cuda.Device
    image: int
    heads: list[tuple[int, int]]
    enqueue: Callable[[cuda.Stream], None]
    capturable: Callable[[cuda.Stream], bool] = lambda stream: True


class Preprocessing:
    """Makes the network's input from frames.

    Attributes:
        frames: memory of the frames.
        transfer: brings them to the device.
        kernels: the compiled kernels.
    """

    def __init__(self, device: cuda.Device, size: tuple[int, int], out: int, ticket: int) -> None:
        """Compile the kernels, or read them from the cache.

        Args:
            device: device that they run on.
            size: width and height of the network's input.
            out: device address of the input tensor, uint8 [height, width, 3] blue, green, red.
            ticket: device address of eight bytes that receive the frame's ticket.

        Raises:
            CudaError: a kernel cannot be compiled or loaded.
        """
        self._device, self._size, self._out, self._ticket = device, size, out, ticket
        self._fitted: tuple[object, ...] = ()
        self.frames = FrameMemory(device)
        self._cell_memory = device.pinned(ctypes.sizeof(preprocess_job.FrameCell))
        self._cell = preprocess_job.FrameCell.from_buffer(self._cell_memory.array)
        self._constants: cuda.DeviceMemory | None = None
        self.transfer = FrameTransfer(device, self._cell, self._cell_memory.address)
        self.kernels = load_kernels(device, "preprocess")

    def fit(self, image: ImageView, placement: Placement, stream: cuda.Stream) -> bool:
        """Prepare for frames of this kind and placement.

        Returns:
            Whether anything changed, so that a graph must be captured again.

        Raises:
            FrameRejected: size, step and data do not fit together, a GPU cannot read the frame, or
                the placement is for another network.
        """
        check_in_place(image)
        kind = (image.encoding, image.width, image.height, image.step, placement)
        if kind == self._fitted:
            return False
        if (placed := (placement.letterbox.width, placement.letterbox.height)) != self._size:
            raise FrameRejected(f"the frame is placed for an input of {placed}, not {self._size}")
        plan = preprocess_job.plan_frame(image, placement.letterbox, placement.grid())
        self._fitted = ()  # until everything below has succeeded
        self.frames.reserve(plan.frame_bytes)
        constants, addresses = upload(self._device, stream, preprocess_job.constants_of(plan))
        if self._constants is not None:
            self._constants.close()
        self._constants = constants
        cell = self._cell_memory.address
        job = preprocess_job.build_preprocess_job(plan, cell, self._ticket, self._out, addresses)
        self._launch = self.kernels.prepare(
            "preprocess", preprocess_job.grid_of(plan), preprocess_job.THREADS, job
        )
        self.transfer.fit(plan, addresses[0], stream, self._launch.enqueue)
        self._fitted = kind
        self._frame_bytes = plan.frame_bytes
        return True

    def take(self, image: ImageView, ticket: int, stream: cuda.Stream) -> int:
        """Pass the next frame to the device; no running kernel may read an earlier one.

        Returns:
            Number of copies that were made on the host: 0 if the frame is in shared memory.
        """
        address, copies = self.frames.locate(image.data[: self._frame_bytes])
        self._cell.ticket = ticket
        self.transfer.take(address, stream)
        return copies

    def enqueue(self, stream: cuda.Stream) -> None:
        """Put the kernels on a stream, for the frame of `take`."""
        self.transfer.enqueue(stream)
        self._launch.enqueue(stream)

    def close(self) -> None:
        """Unregister the frames' memory; everything else is freed with the device."""
        self.frames.close()


class Decoding:
    """Decodes the network's output to boxes in source pixels.

    Attributes:
        memory: host memory of the `DecodeResult`, which the device writes in place.
        ticket: device address where `Preprocessing` writes the ticket of the current frame.
    """

    def __init__(
        self,
        device: cuda.Device,
        head: decode_job.Head,
        settings: DecodeSettings,
        tensors: Sequence[tuple[int, int]],
        stream: cuda.Stream,
    ) -> None:
        """Compile the kernels, or read them from the cache.

        Args:
            device: device that they run on.
            head: sizes of the network's head.
            settings: thresholds of the decoder.
            tensors: for each level the device addresses of its box and class logits, float32.
            stream: stream that is used to clear the state.

        Raises:
            CudaError: a kernel cannot be compiled or loaded.
        """
        self._head, self._settings, self._tensors = head, settings, tensors
        self._kernels = load_kernels(device, "decode")
        self._state = device.memory(ctypes.sizeof(decode_job.DecodeState))
        self._scratch = device.memory(12 * head.cells)
        self.memory = device.pinned(ctypes.sizeof(decode_job.DecodeResult))
        self._result = decode_job.DecodeResult.from_buffer(self.memory.array)
        self.ticket = self._state.address + decode_job.DecodeState.ticket.offset
        stream.fill(self._state)
        stream.wait()

    def place(self, placement: Placement) -> None:
        """Set the placement of the frames; a graph must be captured again after this."""
        job = decode_job.build_decode_job(
            self._head,
            self._settings,
            placement,
            self._tensors,
            self._state.address,
            self._scratch.address,
            self.memory.address,
        )
        self._launches = [
            self._kernels.prepare(name, (blocks, 1, 1), threads, job)
            for name, blocks, threads in decode_job.launches_of(self._head)
        ]

    def enqueue(self, stream: cuda.Stream) -> None:
        """Put the kernels on a stream."""
        for launch in self._launches:
            launch.enqueue(stream)

    def result(self, ticket: int) -> decode_job.DecodeResult:
        """The result for the frame with this ticket, after the stream has been waited for.

        The next frame overwrites it.

        Raises:
            AbsurdOutput: the network's output cannot be right.
            CudaError: the result belongs to another frame.
        """
        if self._result.ticket != ticket:
            other = f"of frame {self._result.ticket}, not of {ticket}"
            raise cuda.CudaError(f"the GPU's result is {other}")
        self._result.check(self._head.strides)
        return self._result


class GpuDetector:
    """All stages of a frame on the GPU as one graph: preprocessing, network, decoding.

    Attributes:
        graph: graph for the current kind of frames, or what stands for it if the network cannot be
            captured; None before the first frame.
        preprocessing: the first stage.
        copies: copies that were made of the last frame; 0 if it was in shared memory.
    """

    def __init__(
        self, stream: cuda.Stream, size: tuple[int, int], network: NetworkStage, decoding: Decoding
    ) -> None:
        """Put the stages together.

        Args:
            stream: stream of the camera.
            size: width and height of the network's input.
            network: the network.
            decoding: decodes the network's output.

        Raises:
            CudaError: a kernel cannot be compiled or loaded.
        """
        self._stream, self._network, self._decoding = stream, network, decoding
        self.preprocessing = Preprocessing(network.device, size, network.image, decoding.ticket)
        self.graph: cuda.CudaGraph | cuda.Uncaptured | None = None
        self._ticket = 0
        self.copies = 0

    def prepare(self, image: ImageView, placement: Placement) -> cuda.CudaGraph | cuda.Uncaptured:
        """Make the graph for frames of this kind, unless it exists already.

        Args:
            image: an uncompressed frame.
            placement: placement of the frame in the network's input.

        Raises:
            FrameRejected: the frame cannot be read.
            CudaError: the GPU failed.
        """
        if self.preprocessing.fit(image, placement, self._stream) and self.graph is not None:
            self.graph.close()
            self.graph = None
        if self.graph is None:
            # `capture` first runs the stages once, on this frame.
            self.preprocessing.take(image, self._ticket, self._stream)
            self._decoding.place(placement)
            stages = [self.preprocessing.enqueue, self._network.enqueue, self._decoding.enqueue]
            self.graph = cuda.capture(self._stream, stages, self._network.capturable(self._stream))
        return self.graph

    def launch(self, image: ImageView, placement: Placement) -> None:
        """Start processing a frame, which must stay valid until `result`; see `prepare`."""
        graph = self.prepare(image, placement)
        self._ticket += 1
        self.copies = self.preprocessing.take(image, self._ticket, self._stream)
        graph.launch(self._stream)

    def result(self) -> decode_job.DecodeResult:
        """Wait for the result of the launched frame; the next frame overwrites it.

        Raises:
            AbsurdOutput: the network's output cannot be right.
            CudaError: the GPU failed.
        """
        self._stream.wait()
        return self._decoding.result(self._ticket)

    def close(self) -> None:
        """Release the frames' memory and the graph; everything else is freed with the device."""
        self.preprocessing.close()
        if self.graph is not None:
            self.graph.close()
            self.graph = None


def upload(
    device: cuda.Device, stream: cuda.Stream, arrays: Sequence[NDArray[np.generic]]
) -> tuple[cuda.DeviceMemory, list[int]]:
    """Copy arrays to device memory; returns the memory, and the device address of each array."""
    offsets, total = packed([array.nbytes for array in arrays])
    host = device.pinned(total)
    try:
        for array, offset in zip(arrays, offsets, strict=True):
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            host.array[offset : offset + flat.nbytes] = flat
        memory = device.memory(total)
        stream.copy(memory.address, host.address, total)
        stream.wait()
    finally:
        host.close()
    return memory, [memory.address + offset for offset in offsets]
