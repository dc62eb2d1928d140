"""A frame from shared memory to boxes on the GPU: paced and tight, with and without other load."""

import argparse
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gpu_clocks
import gpu_stages
import numpy as np
from gpu_checks import SETTINGS
from gpu_stages import case_of

from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.frame import ImageView
from perception_nodes.core.statistics import LATENCY_RANKS, percentiles
from perception_nodes.gpu.cuda import CudaError, Device, Stream
from perception_nodes.gpu.decode_job import Head
from perception_nodes.gpu.stages import Decoding, GpuDetector
from perception_nodes.preprocess.placement import Placement

SLOTS = 8
LOAD_BYTES = 256 << 20
AIM_MS = 2.0
Show = Callable[[int, int], None]


class NoNetwork(PerceptionError):
    """None of the backends could be opened; the text says why for each."""


def measure(options: argparse.Namespace, progress: Callable[[str], Show]) -> dict[str, Any]:
    """Measure the model on each backend that is there.

    Returns:
        `networks`: by backend its name, and the figures by condition and pace; `missing`: why a
        backend was not measured.

    Raises:
        NoNetwork: none could be measured.
    """
    networks: dict[str, Any] = {}
    missing: list[str] = []
    for name in options.backends:
        with ExitStack() as stack:
            try:
                network = stack.enter_context(opened(name, options.model, progress))
            except (ImportError, PerceptionError, ValueError) as error:
                missing.append(f"{name}: {' '.join(str(error).split())}")
                continue
            networks[name] = time_all(name, *network, options, progress)
    if not networks:
        raise NoNetwork(f"no network was measured: {'; '.join(missing)}")
    return {"networks": networks, "missing": missing}


@contextmanager
def opened(
    name: str, model_name: str, progress: Callable[[str], Show]
) -> Iterator[tuple[str, Device, Stream, GpuDetector, tuple[int, int]]]:
    """A model on a backend, as the detector node runs it with preprocess_on:=gpu."""
    from perception_nodes.backends.contract import BackendSettings, open_backend
    from perception_nodes.networks.model import load_model
    from perception_nodes.system.environment import cache_folder

    model = load_model(model_name)
    show = progress(f"{name}: building {model.name}")
    backend = open_backend(name, BackendSettings(cache_dir=str(cache_folder()), progress=show))
    info = backend.load(model)
    try:
        network, outputs = backend.another_network(), model.outputs
        size = model.input.width, model.input.height
        head = Head(*size, tuple(outputs.strides), outputs.reg_max, len(model.classes))
        stream = network.device.stream()
        decoding = Decoding(network.device, head, SETTINGS, network.heads, stream)
        detector = GpuDetector(stream, size, network, decoding)
        yield f"{model.name} on {info.runtime}", network.device, stream, detector, size
        detector.close()
    finally:
        backend.close()


def time_all(
    name: str,
    title: str,
    device: Device,
    stream: Stream,
    detector: GpuDetector,
    size: tuple[int, int],
    options: argparse.Namespace,
    progress: Callable[[str], Show],
) -> dict[str, Any]:
    """Time every condition, paced and tight."""
    placement = Placement.fit(gpu_stages.SOURCE, size, None)
    paces = {f"{options.hz:g} Hz": 1 / options.hz, "tight": 0.0}
    figures: dict[str, Any] = {}
    with shared_frames() as frames:
        for condition in options.conditions:
            for pace, period_s in paces.items():
                show = progress(f"{name}, {condition}, {pace}: frame")
                with gpu_clocks.clocks() as clocks, _condition(condition, device) as before:
                    took = time_frames(
                        detector, frames, placement, options.frames, period_s, before, show
                    )
                figures.setdefault(condition, {})[pace] = {**took, "clocks": clocks}
        graph_ms = time_graph(device, stream, detector)
    transfer = detector.preprocessing.transfer
    return {
        "name": title,
        "conditions": figures,
        "graph_on_device_ms": graph_ms,
        "frames_come_by": transfer.way,
        "transfer_us": transfer.took_us,
        "registrations": detector.preprocessing.frames.registrations,
    }


def time_frames(
    detector: GpuDetector,
    frames: list[ImageView],
    placement: Placement,
    count: int,
    period_s: float,
    before: Callable[[], None],
    show: Show,
) -> dict[str, Any]:
    """Time from a frame in shared memory to boxes on the host.

    Args:
        detector: processes the frames.
        frames: frames in shared memory, taken in turn.
        placement: placement of the frames.
        count: number of frames that are timed.
        period_s: a frame begins so long after the one before, or as soon as that has ended.
        before: puts other load on the GPU.
        show: shows the progress.
    """
    took_ms, copies, begin = [], 0, time.perf_counter()
    for number in range(-gpu_stages.WARM_UP, count):
        image = frames[number % SLOTS]
        begin = max(begin + period_s, time.perf_counter())
        time.sleep(max(0.0, begin - time.perf_counter()))
        before()
        started = time.perf_counter()
        detector.launch(image, placement)
        detector.result()
        took = (time.perf_counter() - started) * 1e3
        if number >= 0:
            took_ms.append(took)
            copies += detector.copies
            show(number + 1, count)
    return {
        "frames": count,
        "shared_memory_to_boxes_ms": percentiles(took_ms, LATENCY_RANKS),
        "copies_a_frame": copies / count,
        "over_aim": int((np.array(took_ms) > AIM_MS).sum()),
    }


def time_graph(device: Device, stream: Stream, detector: GpuDetector) -> dict[str, float]:
    """Device time of the graph alone, on a quiet GPU; a frame's `copy` goes before the graph."""
    assert detector.graph is not None
    graph = detector.graph
    return gpu_stages.time_alone(device, stream, lambda: graph.launch(stream))


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
def _condition(name: str, device: Device) -> Iterator[Callable[[], None]]:
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
            [sys.executable, str(program), "--load"],
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


def load(device: Device) -> None:
    """Keep the GPU busy until stdin ends: by matrix products if PyTorch is there, else by fills."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    try:
        import torch

        left = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)

        def step() -> None:
            torch.matmul(left, left)
            torch.cuda.synchronize()

    except (ImportError, RuntimeError):
        stream, memory = device.stream(), device.memory(LOAD_BYTES)

        def step() -> None:
            stream.fill(memory)
            stream.wait()

    step()
    print("ready", flush=True)
    while not ended.is_set():
        step()
