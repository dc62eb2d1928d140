"""The single stages of the GPU path: their results, durations and memory traffic."""

import ctypes
from collections.abc import Callable
from typing import Any

import gpu_checks
import numpy as np
from gpu_checks import HEAD, SETTINGS, HeadCase, PictureCase

from perception_nodes.core.statistics import LATENCY_RANKS, percentiles
from perception_nodes.gpu.cuda import Device, DeviceMemory, Stream
from perception_nodes.gpu.decode_job import DecodeResult
from perception_nodes.gpu.preprocess_job import (
    BITS,
    LENS_BITS,
    THREADS,
    FrameCell,
    FramePlan,
    build_preprocess_job,
    constants_of,
    grid_of,
)
from perception_nodes.gpu.stages import Decoding, Preprocessing, upload

SOURCE = (1920, 1080)
SIZE = (640, 384)
ENCODINGS = ("nv12", "yuyv", "bgr8", "bayer_rggb8")
SECTOR_BYTES = 32
"""The smallest amount that a GPU reads from its memory."""
COLD_BYTES = 512 << 20
"""Size of the memory from which frames are taken in turn: larger than any second-level cache."""
LAUNCHES = 200
SAMPLES = 1000
WARM_UP = 50


def on_device(
    device: Device,
) -> tuple[Callable[[PictureCase], list[Any]], Callable[[HeadCase], DecodeResult]]:
    """The functions that `gpu_checks.compare` calls, on the GPU."""
    stream = device.stream()
    made: dict[tuple[int, int], tuple[Preprocessing, DeviceMemory]] = {}
    ticket = device.memory(8)
    heads = HeadMemory(device, stream, *gpu_checks.tensors(0, -7.0))
    decoding = Decoding(device, HEAD, SETTINGS, heads.addresses, stream)

    def preprocess(case: PictureCase) -> list[Any]:
        if case.size not in made:
            memory = device.memory(3 * case.size[0] * case.size[1])
            stage = Preprocessing(device, case.size, memory.address, ticket.address)
            made[case.size] = stage, memory
        stage, memory = made[case.size]
        stage.fit(case.image, case.placement, stream)
        result, found = device.pinned(memory.nbytes), []
        for way in stage.transfer.took_us:
            stage.transfer.way = way
            stage.take(case.image, 1, stream)
            stage.enqueue(stream)
            stream.copy(result.address, memory.address, result.nbytes)
            stream.wait()
            found.append(result.array.copy())
        result.close()
        return found

    def decode(case: HeadCase) -> DecodeResult:
        heads.fill(case.boxes, case.classes)
        decoding.place(case.placement)
        decoding.enqueue(stream)
        stream.wait()
        return DecodeResult.from_buffer_copy(decoding.memory.array)

    return preprocess, decode


class HeadMemory:
    """Device memory for a head's tensors."""

    def __init__(self, device: Device, stream: Stream, boxes: list[Any], classes: list[Any]):
        self._stream = stream
        self._memory = [
            (device.memory(array.nbytes), device.pinned(array.nbytes))
            for pair in zip(boxes, classes, strict=True)
            for array in pair
        ]
        addresses = [memory.address for memory, _ in self._memory]
        self.addresses = list(zip(addresses[0::2], addresses[1::2], strict=True))
        self.fill(boxes, classes)

    def fill(self, boxes: list[Any], classes: list[Any]) -> None:
        arrays = [array for pair in zip(boxes, classes, strict=True) for array in pair]
        for (memory, host), array in zip(self._memory, arrays, strict=True):
            host.array[:] = array.reshape(-1).view(np.uint8)
            self._stream.copy(memory.address, host.address, host.nbytes)
        self._stream.wait()


def bytes_moved(plan: FramePlan) -> dict[str, int]:
    """Bytes that the preprocessing kernel must read and write for one frame.

    Returns:
        `frame`: sectors of the frame with a sample that is needed, each counted once; `positions`:
        maps; `out`: the input tensor.
    """
    sectors: set[int] = set()
    for plane in plan.planes:
        if plane.xy is not None:
            x, y = plane.xy[:, :, 0].astype(np.int64), plane.xy[:, :, 1].astype(np.int64)
            right, below = plane.fraction & ((1 << LENS_BITS) - 1), plane.fraction >> LENS_BITS
        else:
            rows, columns = np.meshgrid(plane.rows, plane.columns, indexing="ij")
            x, y = columns.astype(np.int64) >> BITS, rows.astype(np.int64) >> BITS
            right, below = columns % (1 << BITS), rows % (1 << BITS)
        for i in (0, 1):
            for j in (0, 1):
                # A neighbour with weight 0 is not read.
                needed = (i == 0) | (right > 0)
                needed &= (j == 0) | (below > 0)
                needed &= (x + i >= 0) & (x + i < plane.width)
                needed &= (y + j >= 0) & (y + j < plane.height)
                at = plane.offset + (y + j) * plane.row_bytes + (x + i) * plane.sample_bytes
                for channel in set(plane.channels):
                    sectors.update(np.unique((at[needed] + channel) // SECTOR_BYTES).tolist())
    return {
        "frame": len(sectors) * SECTOR_BYTES,
        "positions": sum(array.nbytes for array in constants_of(plan)[1:]),
        "out": 3 * plan.letterbox.width * plan.letterbox.height,
    }


def bandwidth(device: Device, stream: Stream) -> float:
    """Write bandwidth of the device's memory, bytes per second, measured by a large fill."""
    memory = device.memory(COLD_BYTES)
    first, last = device.event(), device.event()
    best = np.inf
    for _ in range(10):
        first.record(stream)
        stream.fill(memory)
        last.record(stream)
        last.wait()
        best = min(best, last.since_ms(first))
    memory.close()
    return COLD_BYTES / best * 1e3


def case_of(encoding: str, lens: str = "no lens") -> PictureCase:
    info = gpu_checks.lenses(*SOURCE)[lens]
    return PictureCase(encoding, gpu_checks.noise(encoding, *SOURCE), SIZE, info)


def time_preprocess(
    device: Device, stream: Stream, encoding: str, lens: str, bandwidth: float
) -> dict[str, Any]:
    """Time the kernel: many launches in a graph, each with a frame that no cache holds.

    Besides, a single launch behind each way in which a frame can come.
    """
    case = case_of(encoding, lens)
    plan, nbytes = case.plan, case.image.data.nbytes
    count = max(2, COLD_BYTES // nbytes)
    memory, out = device.memory(count * nbytes), device.memory(8 << 20)
    cells = device.pinned(count * ctypes.sizeof(FrameCell))
    stage = Preprocessing(device, SIZE, out.address, out.address + (4 << 20))
    stage.fit(case.image, case.placement, stream)
    constants, addresses = upload(device, stream, constants_of(plan))
    stream.fill(memory, 77)
    array = (FrameCell * count).from_buffer(cells.array)
    launches = []
    for number, cell in enumerate(array):
        cell.pixels = memory.address + number * nbytes
        at = cells.address + number * ctypes.sizeof(FrameCell)
        job = build_preprocess_job(plan, at, out.address + (4 << 20), out.address, addresses)
        launches.append(stage.kernels.prepare("preprocess", grid_of(plan), THREADS, job))

    def launch_all(stream: Stream) -> None:
        for number in range(LAUNCHES):
            launches[number % count].enqueue(stream)

    graph = stream.capture(launch_all)
    launch_us = min(_graph_ms(device, stream, graph) for _ in range(20)) / LAUNCHES * 1e3
    moved = bytes_moved(plan)
    total = sum(moved.values())
    for resource in (memory, out, cells, constants, graph):
        resource.close()
    stage.close()
    return {
        "encoding": encoding,
        "lens": lens,
        "device_memory_us": round(launch_us, 3),
        "frames_come_by": stage.transfer.way,
        "transfer_us": stage.transfer.took_us,
        "frame_bytes": nbytes,
        "fetched_bytes": len(plan.rows) * plan.row_bytes,
        "moved_bytes": moved,
        "gb_s": round(total / launch_us / 1e3, 1),
        "of_bandwidth": round(total / launch_us * 1e6 / bandwidth, 4),
    }


def _graph_ms(device: Device, stream: Stream, graph: Any) -> float:
    first, last = device.event(), device.event()
    first.record(stream)
    graph.launch(stream)
    last.record(stream)
    last.wait()
    took = last.since_ms(first)
    first.close()
    last.close()
    return took


def time_alone(device: Device, stream: Stream, work: Callable[[], None]) -> dict[str, float]:
    """Device time of work that starts on an idle GPU, including its launch."""
    first, last = device.event(), device.event()
    took = []
    for number in range(WARM_UP + SAMPLES):
        first.record(stream)
        work()
        last.record(stream)
        last.wait()
        if number >= WARM_UP:
            took.append(last.since_ms(first))
    first.close()
    last.close()
    return percentiles(took, LATENCY_RANKS)


def measure(
    device: Device, progress: Callable[[str], Callable[[int, int], None]]
) -> dict[str, Any]:
    """All figures of single stages."""
    stream = device.stream()
    rate = bandwidth(device, stream)
    cases = [(encoding, lens) for encoding in ENCODINGS for lens in ("no lens", "barrel")]
    show, kernels = progress("timing the preprocessing kernel"), []
    for number, (encoding, lens) in enumerate(cases):
        kernels.append(time_preprocess(device, stream, encoding, lens, rate))
        show(number + 1, len(cases))
    decoding = [
        {"objects": name, **time_decode(device, stream, mean)}
        for name, mean in {"none": -20.0, "some": -7.0, "a flood": 6.0}.items()
    ]
    return {
        "bandwidth_gb_s": round(rate / 1e9, 1),
        "preprocess": kernels,
        "decode": decoding,
        "back_to_host_bytes": ctypes.sizeof(DecodeResult),
    }


def time_decode(device: Device, stream: Stream, mean: float) -> dict[str, Any]:
    heads = HeadMemory(device, stream, *gpu_checks.tensors(3, mean))
    decoding = Decoding(device, HEAD, SETTINGS, heads.addresses, stream)
    decoding.place(case_of("nv12").placement)
    graph = stream.capture(decoding.enqueue)
    took = time_alone(device, stream, lambda: graph.launch(stream))
    result = DecodeResult.from_buffer_copy(decoding.memory.array)
    graph.close()
    return {"ms": took, "found": result.found, "boxes": result.count, "more": result.more}
