"""All stages of a frame on the GPU, from shared memory to boxes, with and without other load."""

import argparse
import ctypes
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gpu_checks
import gpu_stages
import numpy as np
from gpu_checks import HEAD, SETTINGS
from gpu_stages import HeadMemory, bytes_moved, case_of

from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.frame import ImageView
from perception_nodes.core.statistics import LATENCY_RANKS, percentiles
from perception_nodes.gpu.cuda import CudaError, Device, Event, Stream
from perception_nodes.gpu.decode_job import DecodeResult
from perception_nodes.gpu.preprocess_job import FrameCell, InputFormat, plan_frame
from perception_nodes.gpu.stages import Decoding, GpuDetector, NetworkStage
from perception_nodes.preprocess.placement import Placement

SLOTS = 8
LOAD_BYTES = 256 << 20


def measure(
    device: Device, options: argparse.Namespace, progress: Callable[[str], Any]
) -> dict[str, Any]:
    """All figures of the report."""
    stream = device.stream()
    rate = gpu_stages.bandwidth(device, stream)
    missing: list[str] = []
    kernels = []
    show = progress("timing the preprocessing kernel")
    cases = [
        (encoding, lens) for encoding in gpu_stages.ENCODINGS for lens in ("no lens", "barrel")
    ]
    for number, (encoding, lens) in enumerate(cases):
        kernels.append(gpu_stages.time_preprocess(device, stream, encoding, lens, rate))
        show(number + 1, len(cases))
    copies = [
        {"encoding": encoding, **gpu_stages.time_copy(device, stream, encoding)}
        for encoding in gpu_stages.ENCODINGS
    ]
    decoding = [
        {"objects": name, **gpu_stages.time_decode(device, stream, mean)}
        for name, mean in {"none": -20.0, "some": -7.0, "a flood": 6.0}.items()
    ]
    network = MeasuredNetwork(device, stream, options.model, missing)
    decoder = Decoding(device, network.head, SETTINGS, network.stage.heads, stream)
    detector = GpuDetector(stream, network.input_format, network.stage, decoder)
    placement = Placement.fit(
        gpu_stages.SOURCE, (network.input_format.width, network.input_format.height), None
    )
    with shared_frames() as frames:
        placed = [(frame, placement) for frame in frames]
        whole = {
            name: time_whole(
                device, stream, detector, placed, options, name, progress(f"{name}: frame")
            )
            for name in options.conditions
        }
        detector.close()
    plan = plan_frame(frames[0], placement.letterbox, None)
    # The part of a frame that is read in place from the host's memory, and the frame's address.
    host_to_device = bytes_moved(plan, network.input_format)["frame"] + ctypes.sizeof(FrameCell)
    return {
        "bandwidth_gb_s": round(rate / 1e9, 1),
        "network": network.name,
        "missing": missing,
        "preprocess": kernels,
        "copy_to_device": copies,
        "decode": decoding,
        "whole": whole,
        "host_to_device_bytes": host_to_device,
        "back_to_host_bytes": ctypes.sizeof(DecodeResult),
    }


class MeasuredNetwork:
    """The network if TensorRT and a model are available, else constant tensors in its place."""

    name = "none"

    def __init__(self, device: Device, stream: Stream, model_name: str, missing: list[str]):
        self.head, self.input_format = HEAD, gpu_stages.INPUT_FORMAT
        try:
            self.stage = self._open(device, model_name)
        except (ImportError, PerceptionError, ValueError) as error:
            missing.append(f"the network: {error}; the graph is measured without one")
            image = device.memory(gpu_stages.INPUT_FORMAT.nbytes)
            heads = HeadMemory(device, stream, *gpu_checks.tensors(3, -7.0))
            self.stage = NetworkStage(device, image.address, heads.addresses, lambda stream: None)

    def _open(self, device: Device, model_name: str) -> NetworkStage:
        from perception_nodes.backends.model import load_model
        from perception_nodes.gpu.decode_job import Head
        from perception_nodes.gpu.tensorrt.build import build
        from perception_nodes.gpu.tensorrt.engine import Engine
        from perception_nodes.gpu.tensorrt.library import load_library

        library, model = load_library(), load_model(model_name)
        file, _ = model.signed_file()
        engine = Engine(device, library, build(library, file).plan)
        for name, tensor in {**engine.inputs, **engine.outputs}.items():
            engine.execution.bind(name, device.memory(tensor.nbytes).address)
        address, execution = engine.execution.addresses, engine.execution
        heads = zip(model.outputs.box, model.outputs.classes, strict=True)
        width, height = model.input.width, model.input.height
        self.input_format = InputFormat(width, height)
        strides = tuple(model.outputs.strides)
        self.head = Head(width, height, strides, model.outputs.reg_max, len(model.classes))
        self.name = f"{model.name} on {library.name}"
        return NetworkStage(
            device,
            address[model.input.name],
            [(address[box], address[classes]) for box, classes in heads],
            execution.enqueue,
            execution.capturable,
        )


def time_whole(
    device: Device,
    stream: Stream,
    detector: GpuDetector,
    frames: list[tuple[ImageView, Placement]],
    options: argparse.Namespace,
    condition: str,
    show: Callable[[int, int], None],
) -> dict[str, Any]:
    """Time from a frame in shared memory to boxes on the host, and the device's part of it."""
    first, last = device.event(), device.event()
    host_ms, device_ms, copies, count = [], [], 0, options.frames
    with _condition(condition, device, options.device) as before:
        for number in range(-gpu_stages.WARM_UP, count):
            image, placement = frames[number % SLOTS]
            before()
            started = time.perf_counter()
            detector.launch(image, placement)
            detector.result()
            took = (time.perf_counter() - started) * 1e3
            if number >= 0:
                host_ms.append(took)
                copies += detector.copies
                show(number + 1, count)
        for _ in range(min(count, gpu_stages.SAMPLES)):
            before()
            device_ms.append(_between(first, last, stream, detector))
    return {
        "frames": count,
        "shared_memory_to_boxes_ms": percentiles(host_ms, LATENCY_RANKS),
        "graph_on_device_ms": percentiles(device_ms, LATENCY_RANKS),
        "copies_a_frame": copies / count,
        "over_3_ms": int((np.array(host_ms) > 3).sum()),
    }


def _between(first: Event, last: Event, stream: Stream, detector: GpuDetector) -> float:
    first.record(stream)
    detector.graph.launch(stream)
    last.record(stream)
    last.wait()
    return last.since_ms(first)


@contextmanager
def shared_frames() -> Iterator[list[ImageView]]:
    """Frames in shared memory, as a camera driver writes them."""
    image = case_of("nv12").image
    nbytes = image.data.nbytes
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="perception_gpu_") as file:
        os.truncate(file.name, SLOTS * nbytes)
        memory = np.frombuffer(mmap.mmap(file.fileno(), SLOTS * nbytes), np.uint8)
        frames = []
        for slot in range(SLOTS):
            data = memory[slot * nbytes : (slot + 1) * nbytes]
            data[:] = np.roll(np.frombuffer(image.data, np.uint8), slot)
            frames.append(
                ImageView(
                    0, "camera", *gpu_stages.SOURCE, image.encoding, image.step, memoryview(data)
                )
            )
        yield frames


@contextmanager
def _condition(name: str, device: Device, index: int) -> Iterator[Callable[[], None]]:
    """Put another load on the GPU; yields a function to be called before each frame."""
    if name == "quiet":
        yield lambda: None
    elif name == "stream":
        other, memory = device.stream(), device.memory(LOAD_BYTES)
        yield lambda: other.fill(memory)
        other.wait()
        memory.close()
    else:
        program = Path(__file__).with_name("gpu.py")
        process = subprocess.Popen(
            [sys.executable, str(program), "--load", "--device", str(index)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise CudaError("the process that should keep the GPU busy does not start")
            yield lambda: None
        finally:
            process.communicate("")


def load(device: Device, index: int) -> None:
    """Keep the GPU busy until stdin ends: by matrix products if PyTorch is there, else by fills."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    try:
        import torch

        left = torch.randn(4096, 4096, device=f"cuda:{index}", dtype=torch.float16)

        def step() -> None:
            torch.matmul(left, left)
            torch.cuda.synchronize(index)

    except (ImportError, RuntimeError):
        stream, memory = device.stream(), device.memory(LOAD_BYTES)

        def step() -> None:
            stream.fill(memory)
            stream.wait()

    step()
    print("ready", flush=True)
    while not ended.is_set():
        step()
