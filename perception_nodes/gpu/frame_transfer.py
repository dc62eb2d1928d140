"""How the bytes of a frame come from the host's memory to the kernel that preprocesses it.

`in place`  it reads the frame where it lies, byte by byte, each about twice
`fetch`     another kernel reads the rows that are needed, 16 bytes a thread, into device memory
`copy`      the copy engine moves the whole frame there

A GPU that shares the host's memory reads in place or fetches: it may not cache that memory. Over a
bus what is read twice would come twice, so there a frame is fetched or copied. Which of the two is
faster depends on the GPU, the bus, and how much smaller the picture becomes; so both are timed here
when a camera's graph is made.
"""

import statistics
from collections.abc import Callable

from perception_nodes.gpu.cuda import Device, DeviceMemory, Launch, Stream
from perception_nodes.gpu.nvrtc import load_kernels
from perception_nodes.gpu.preprocess_job import (
    FETCH_THREADS,
    PIECE_BYTES,
    FrameCell,
    FramePlan,
    build_fetch_job,
)

IN_PLACE, FETCH, COPY = "in place", "fetch", "copy"
COLD_BYTES, MOST_FRAMES = 64 << 20, 32
"""Size of the memory from which frames are timed in turn, so that no cache holds them; and the most
frames in it."""


class FrameTransfer:
    """Brings frames to where the preprocessing kernel reads them.

    Attributes:
        way: `IN_PLACE`, `FETCH` or `COPY`.
        took_us: median device time of the two ways that were timed, with the kernel behind them.
    """

    def __init__(self, device: Device, cell: FrameCell, cell_address: int) -> None:
        """Compile the kernel, or read it from the cache.

        Args:
            device: device that reads the frames.
            cell: receives the addresses of the current frame.
            cell_address: its device address.

        Raises:
            CudaError: the kernel cannot be compiled or loaded.
        """
        self._device, self._cell, self._cell_address = device, cell, cell_address
        self._ways = (IN_PLACE, FETCH) if device.facts.integrated else (FETCH, COPY)
        self.way = self._ways[0]
        self.took_us: dict[str, float] = {}
        self._memory: DeviceMemory | None = None
        self._launch: Launch
        self._kernels = load_kernels(device, "fetch")

    def fit(
        self, plan: FramePlan, rows: int, stream: Stream, preprocess: Callable[[Stream], None]
    ) -> None:
        """Prepare for frames of one kind, and take the faster way.

        Args:
            plan: plan of the frames.
            rows: device address of the plan's rows.
            stream: an idle stream.
            preprocess: puts the preprocessing kernel on it.

        Raises:
            CudaError: the device fails, or has no room.
        """
        self._frame_bytes = plan.frame_bytes
        if self._memory is not None:
            self._memory.close()
        self._memory = self._device.memory(plan.frame_bytes + 3 * PIECE_BYTES)
        job, blocks = build_fetch_job(plan, self._cell_address, rows)
        self._launch = self._kernels.prepare("fetch", (blocks, 1, 1), FETCH_THREADS, job)
        self.took_us = self._time(stream, preprocess)
        self.way = min(self.took_us, key=self.took_us.__getitem__)

    def take(self, address: int, stream: Stream) -> None:
        """Pass the next frame, which lies at this device address of page-locked host memory.

        With `COPY` this puts the copy on the stream; the graph follows.
        """
        assert self._memory is not None
        moved = self._memory.address + PIECE_BYTES + address % PIECE_BYTES
        self._cell.source = address
        self._cell.pixels = address if self.way == IN_PLACE else moved
        if self.way == COPY:
            stream.copy(moved, address, self._frame_bytes)

    def enqueue(self, stream: Stream) -> None:
        """Put on a stream what has to run before the preprocessing kernel."""
        if self.way == FETCH:
            self._launch.enqueue(stream)

    def _time(self, stream: Stream, preprocess: Callable[[Stream], None]) -> dict[str, float]:
        stride = -(-self._frame_bytes // PIECE_BYTES) * PIECE_BYTES
        count = min(MOST_FRAMES, max(2, -(-COLD_BYTES // stride)))
        frames = self._device.pinned(count * stride)
        first, last = self._device.event(), self._device.event()
        took: dict[str, list[float]] = {way: [] for way in self._ways}
        for number in range(count):
            for step, self.way in enumerate(took):
                # The frames that one way has read are not those that the other reads next.
                frame = (number + step * count // 2) % count
                first.record(stream)
                self.take(frames.address + frame * stride, stream)
                self.enqueue(stream)
                preprocess(stream)
                last.record(stream)
                last.wait()
                took[self.way].append(1e3 * last.since_ms(first))
        for resource in (frames, first, last):
            resource.close()
        return {way: statistics.median(times) for way, times in took.items()}
