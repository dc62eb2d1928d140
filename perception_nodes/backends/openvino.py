"""OpenVINO on the CPU: the slot is its input tensor, nothing is copied on the way in."""

import os
from collections.abc import Sequence
from functools import cache

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendInfo, BackendSettings, check_heads
from perception_nodes.backends.model import Model
from perception_nodes.core.inference import BackendError, HeadTensors

INSTRUCTIONS = "AVX512_CORE_FP16"
"""The most that kernels may use: all but the tiles of AMX. A tile wants 64 input channels, and a
pruned network has layers of 16: road-n takes 3.0 ms without tiles and 3.5 with them."""


@cache
def core() -> ov.Core:
    """The one core of this process, kept to its end.

    OpenVINO's CPU plugin gives the thread a signal stack of its own and frees it when its core
    goes. With several cores the thread can be left on a freed one, and the next signal, the
    SIGINT that should end us, kills the process.
    """
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", INSTRUCTIONS)
    return ov.Core()


def compile_for_latency(
    network: str | ov.Model, threads: int, cache_dir: str, streams: int = 1
) -> ov.CompiledModel:
    """Compile a network as the run time does.

    Args:
        network: an ONNX file, or a network in memory.
        threads: threads that calls may use; 0 for one a physical core.
        cache_dir: folder for compiled models, empty for none.
        streams: calls that share the threads at a time.
    """
    config: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": streams,
        # The default is bf16 on CPUs that have it: other numbers than everywhere else.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    if cache_dir:
        config["CACHE_DIR"] = cache_dir
    return core().compile_model(network, "CPU", config)


class Request:
    """An inference request with output memory of its own, which every call fills again.

    Attributes:
        heads: the memory.
    """

    def __init__(self, compiled: ov.CompiledModel, model: Model) -> None:
        """Make one.

        Raises:
            BackendError: the outputs are not what `model.yaml` says.
        """
        self._request = compiled.create_infer_request()
        outputs = model.outputs
        boxes, classes = (
            [self._request.get_tensor(name).data for name in names]
            for names in (outputs.box, outputs.classes)
        )
        self.heads = HeadTensors(boxes, classes)
        check_heads(model, self.heads)

    def begin(self, image: NDArray[np.uint8]) -> None:
        """Start to run the network on the image in place; raises RuntimeError."""
        self._request.set_input_tensor(ov.Tensor(image[np.newaxis], shared_memory=True))
        self._request.start_async()

    def end(self) -> None:
        """Wait for what was begun; raises RuntimeError."""
        self._request.wait()

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on the image in place."""
        try:
            self.begin(image)
            self.end()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {_first_line(error)}") from error
        return self.heads


class Backend:
    """One compiled model and one inference request; for batches another one, and several.

    A batch is requests side by side, each with its share of the threads: as fast as a network with
    a batch dimension or faster, with no copy that puts the images one behind the other, and no
    network of its own for each size.
    """

    def __init__(self, settings: BackendSettings) -> None:
        """See `BackendSettings`."""
        self._settings = settings
        self._model: Model | None = None
        self._compiled: ov.CompiledModel | None = None
        self._request: Request | None = None
        self._side_by_side: list[Request] = []

    def load(self, model: Model) -> BackendInfo:
        """Compile for lowest latency, from the cache where it holds this model."""
        settings = self._settings
        try:
            compiled = compile_for_latency(str(model.path), settings.threads, settings.cache_dir)
            self._request = Request(compiled, model)
            self._compiled, self._model = compiled, model
            threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
            blank = np.zeros((model.input.height, model.input.width, 3), np.uint8)
            self.infer(blank)
            # One thread would work on one image after the other, as it does on single ones.
            size = settings.max_batch if threads > 1 else 1
            self._side_by_side = []
            if size > 1:
                streams = min(size, threads)
                several = compile_for_latency(str(model.path), threads, settings.cache_dir, streams)
                self._side_by_side = [Request(several, model) for _ in range(size)]
                self.infer_batch([blank] * size)
        except BackendError:
            raise
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO cannot load {model.path}: {_first_line(error)}"
            ) from error
        device = str(core().get_property("CPU", "FULL_DEVICE_NAME"))
        return BackendInfo("openvino", f"OpenVINO {ov.__version__}", device, threads, size)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on the image in place."""
        if self._request is None:
            raise BackendError("openvino: no model is loaded")
        return self._request.infer(image)

    def queue(self, count: int) -> list[Request]:
        """See `QueuedBackend`: requests that all run on the same threads."""
        if self._compiled is None or self._model is None:
            raise BackendError("openvino: no model is loaded")
        return [Request(self._compiled, self._model) for _ in range(count)]

    def infer_batch(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[HeadTensors]:
        """Run the network on each image in place, side by side."""
        if len(images) > len(self._side_by_side):
            raise BackendError(
                f"openvino: {len(images)} images at once, it was loaded for "
                f"{max(1, len(self._side_by_side))}"
            )
        chosen, begun = self._side_by_side[: len(images)], []
        failure: RuntimeError | None = None
        try:
            for request, image in zip(chosen, images, strict=True):
                request.begin(image)
                begun.append(request)
        except RuntimeError as error:
            failure = error
        for request in begun:  # whatever happened: it reads an image that is given back after this
            try:
                request.end()
            except RuntimeError as error:
                failure = error
        if failure is not None:
            raise BackendError(f"OpenVINO failed: {_first_line(failure)}") from failure
        return [request.heads for request in chosen]

    def close(self) -> None:
        """Drop the compiled models."""
        self._compiled = self._request = None
        self._side_by_side = []


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1]
