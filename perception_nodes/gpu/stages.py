"""The stages of a frame that run on a GPU: preprocessing, and decoding what the network says.

Each puts its kernels on a stream; with the network's between them they become one graph, launched
once a frame. What changes from frame to frame, where its pixels lie and its ticket, is told through
page-locked memory. Once the graph is there nothing allocates.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import ImageView
from perception_nodes.gpu.cuda import CudaError, CudaGraph, Device, DeviceMemory, Stream, capture
from perception_nodes.gpu.decode_job import (
    DecodeResult,
    DecodeState,
    Head,
    build_decode_job,
    launches_of,
)
from perception_nodes.gpu.frame_memory import FrameMemory
from perception_nodes.gpu.nvrtc import cubin
from perception_nodes.gpu.preprocess_job import (
    THREADS,
    FrameCell,
    InputFormat,
    build_preprocess_job,
    constants_of,
    grid_of,
    plan_frame,
)
from perception_nodes.preprocess.formats import check_uncompressed
from perception_nodes.preprocess.placement import Placement

ALIGNMENT = 256


@dataclass(frozen=True)
class NetworkStage:
    """A network on the device, as a stage of a graph.

    Attributes:
        device: that it is on.
        image: the device's address of its input.
        heads: the device's addresses of a level's box and class logits, float32.
        enqueue: puts a run on a stream; no other may use the same memory until it has ended.
    """

    device: Device
    image: int
    heads: list[tuple[int, int]]
    enqueue: Callable[[Stream], None]


class Preprocessing:
    """Makes the network's input of frames.

    Attributes:
        kernel: the compiled one.
    """

    def __init__(self, device: Device, input_format: InputFormat, out: int, ticket: int) -> None:
        """Compile the kernel, or take it from the cache.

        Args:
            device: that is used.
            input_format: what the network takes.
            out: the device's address of the network's input.
            ticket: the device's address of eight bytes that receive the frame's ticket.

        Raises:
            CudaError: it cannot be compiled or loaded.
        """
        self._device, self._input_format = device, input_format
        self._out, self._ticket = out, ticket
        self._fitted: tuple[object, ...] = ()
        self._frames = FrameMemory(device)
        self._cell_memory = device.pinned(ctypes.sizeof(FrameCell))
        self._cell = FrameCell.from_buffer(self._cell_memory.array)
        self._constants: DeviceMemory | None = None
        self.kernel = device.module(cubin("preprocess", device.facts.sm)).kernel("preprocess")

    def fit(self, image: ImageView, placement: Placement, stream: Stream) -> bool:
        """Make ready for frames like this one, placed so.

        Returns:
            Whether anything changed, so that what was captured is to be captured anew.

        Raises:
            FrameRejected: it contradicts itself, or cannot be read on a GPU.
        """
        check_uncompressed(image)
        kind = (image.encoding, image.width, image.height, image.step, placement)
        if kind == self._fitted:
            return False
        plan = plan_frame(image, placement.letterbox, placement.grid())
        self._fitted = ()  # until all is there
        self._frames.reserve(plan.frame_bytes)
        addresses = self._upload(constants_of(plan, self._input_format), stream)
        job = build_preprocess_job(
            plan, self._input_format, self._cell_memory.address, self._ticket, self._out, addresses
        )
        grid = grid_of(self._input_format)
        self._launch = self.kernel.prepare(grid, (THREADS, 1, 1), job)
        self._fitted = kind
        self._frame_bytes = plan.frame_bytes
        return True

    def take(self, image: ImageView, ticket: int) -> int:
        """Tell the device of the next frame; nothing may be running that reads an earlier one.

        Returns:
            Copies of the frame that this took: 0 where it lies in shared memory.
        """
        self._cell.pixels, copies = self._frames.locate(image.data[: self._frame_bytes])
        self._cell.ticket = ticket
        return copies

    def enqueue(self, stream: Stream) -> None:
        """Put the kernel on a stream."""
        self._launch.enqueue(stream)

    def close(self) -> None:
        """Let go of the frames' memory; all else goes with the device."""
        self._frames.close()

    def _upload(self, arrays: Sequence[NDArray[np.generic]], stream: Stream) -> list[int]:
        """Copy arrays to the device; their addresses there."""
        offsets, total = [], 0
        for array in arrays:
            offsets.append(total)
            total += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        host = self._device.pinned(total)
        try:
            for array, offset in zip(arrays, offsets, strict=True):
                flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                host.array[offset : offset + flat.nbytes] = flat
            memory = self._device.memory(total)
            stream.copy_to_device(memory, host)
            stream.wait()
        finally:
            host.close()
        if self._constants is not None:
            self._constants.close()
        self._constants = memory
        return [memory.address + offset for offset in offsets]


class Decoding:
    """Makes boxes in source pixels of the network's output.

    Attributes:
        memory: of the `Result`, which the device writes in place.
        ticket: the device's address of the ticket of the frame in hand, for `Preprocessing`.
    """

    def __init__(
        self,
        device: Device,
        head: Head,
        settings: DecodeSettings,
        tensors: Sequence[tuple[int, int]],
        stream: Stream,
    ) -> None:
        """Compile the kernels, or take them from the cache.

        Args:
            device: that is used.
            head: of the network.
            settings: thresholds.
            tensors: the device's addresses of a level's box and class logits, float32.
            stream: that the state is cleared on.

        Raises:
            CudaError: they cannot be compiled or loaded.
        """
        self._head, self._settings, self._tensors = head, settings, tensors
        module = device.module(cubin("decode", device.facts.sm))
        self._kernels = [
            (module.kernel(name), (blocks, 1, 1), (threads, 1, 1))
            for name, blocks, threads in launches_of(head)
        ]
        self._state = device.memory(ctypes.sizeof(DecodeState))
        self._scratch = device.memory(12 * head.cells)
        self.memory = device.pinned(ctypes.sizeof(DecodeResult))
        self._result = DecodeResult.from_buffer(self.memory.array)
        self.ticket = self._state.address + DecodeState.ticket.offset
        stream.fill(self._state)
        stream.wait()

    def place(self, placement: Placement) -> None:
        """Bring boxes back to the source of frames like these; to be captured anew."""
        job = build_decode_job(
            self._head,
            self._settings,
            placement,
            self._tensors,
            self._state.address,
            self._scratch.address,
            self.memory.address,
        )
        self._launches = [kernel.prepare(grid, block, job) for kernel, grid, block in self._kernels]

    def enqueue(self, stream: Stream) -> None:
        """Put the kernels on a stream."""
        for launch in self._launches:
            launch.enqueue(stream)

    def result(self, ticket: int) -> DecodeResult:
        """What was found in the frame with this ticket, once the stream has been waited for.

        It lives until the next frame.

        Raises:
            AbsurdOutput: the network's output cannot be a detection.
            CudaError: it is of another frame.
        """
        if self._result.ticket != ticket:
            raise CudaError(f"the GPU answers frame {self._result.ticket} where {ticket} was asked")
        self._result.check(self._head.strides)
        return self._result


class GpuDetector:
    """A frame's whole way on the GPU, as one graph: preprocessing, network, decoding.

    Attributes:
        graph: of the frames that are coming; None before the first.
        copies: of the last frame's pixels that were made; 0 where it lies in shared memory.
    """

    def __init__(
        self,
        device: Device,
        stream: Stream,
        input_format: InputFormat,
        out: int,
        infer: Callable[[Stream], None],
        decoding: Decoding,
    ) -> None:
        """Put the stages together.

        Args:
            device: that is used.
            stream: the camera's.
            input_format: what the network takes.
            out: the device's address of the network's input.
            infer: puts the network on a stream.
            decoding: of its output.

        Raises:
            CudaError: a kernel cannot be compiled or loaded.
        """
        self._stream, self._infer, self._decoding = stream, infer, decoding
        self._preprocessing = Preprocessing(device, input_format, out, decoding.ticket)
        self.graph: CudaGraph | None = None
        self._ticket = 0
        self.copies = 0

    def prepare(self, image: ImageView, placement: Placement) -> CudaGraph:
        """Make the graph for frames like this one, unless it is there.

        Args:
            image: an uncompressed frame.
            placement: its place in the network's input.

        Raises:
            FrameRejected: the frame cannot be read.
            CudaError: the GPU failed.
        """
        if self._preprocessing.fit(image, placement, self._stream) and self.graph is not None:
            self.graph.close()
            self.graph = None
        if self.graph is None:
            # The stages are run once before they are captured, on this frame.
            self._preprocessing.take(image, self._ticket)
            self._decoding.place(placement)
            stages = [self._preprocessing.enqueue, self._infer, self._decoding.enqueue]
            self.graph = capture(self._stream, stages)
        return self.graph

    def launch(self, image: ImageView, placement: Placement) -> None:
        """Have the GPU begin with a frame, which must stay until `result`; see `prepare`."""
        graph = self.prepare(image, placement)
        self._ticket += 1
        self.copies = self._preprocessing.take(image, self._ticket)
        graph.launch(self._stream)

    def result(self) -> DecodeResult:
        """Wait for what was launched; it lives until the next frame.

        Raises:
            AbsurdOutput: the network's output cannot be a detection.
            CudaError: the GPU failed.
        """
        self._stream.wait()
        return self._decoding.result(self._ticket)

    def close(self) -> None:
        """Let go of the frames' memory and the graph; all else goes with the device."""
        self._preprocessing.close()
        if self.graph is not None:
            self.graph.close()
            self.graph = None
