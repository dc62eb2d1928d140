"""OpenVINO on the CPU: the slot is its input tensor, so the image is not copied."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino.preprocess import PrePostProcessor

from perception_nodes.backends.contract import BackendInfo, BackendSettings, check_count, heads_of
from perception_nodes.backends.instructions import faster_instructions
from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.networks.model import LevelsSpec, Model
from perception_nodes.networks.openvino_core import VARIABLE, core, last_line
from perception_nodes.system.environment import writing_cache
from perception_nodes.system.files import read_sealed, write_sealed

NCHW, BOX_LAYOUT = "NCHW", "NHWC"
"""Layout of a raw head's tensors in the model's file; and of its box tensors where they leave the
network, which is how processors compute them: to reorder them takes longer than many a layer."""


def for_latency(threads: int, streams: int = 1) -> dict[str, object]:
    """The configuration of a network for lowest latency.

    Args:
        threads: number of threads that calls may use; 0 for one per physical core.
        streams: number of concurrent calls that share the threads.
    """
    config: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": streams,
        # The default is bf16 on CPUs that have it, which would give different numbers there.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    return config


def compile_model(model: Model, threads: int, cache_dir: str, streams: int = 1) -> ov.CompiledModel:
    """Compile a model for lowest latency, or read what was compiled of the same files before.

    OpenVINO's own cache knows files by name, size and time: it goes on with the old weights where
    only the file of the weights is a new one, and does not see that a file of its own is damaged.

    Args:
        model: the model.
        threads: as of `for_latency`.
        cache_dir: folder for compiled models, empty for none.
        streams: as of `for_latency`.

    Raises:
        BackendError: the cache cannot be written.
    """
    config = for_latency(threads, streams)
    if not cache_dir:
        return core().compile_model(_read(model), "CPU", config)
    machine = ov.__version__, core().get_property("CPU", "FULL_DEVICE_NAME"), os.environ[VARIABLE]
    facts = json.dumps([model.digest, config, machine, BOX_LAYOUT])
    key = hashlib.sha256(facts.encode()).hexdigest()
    kept = Path(cache_dir) / f"{model.name}-{key[:16]}.openvino"
    if (known := read_sealed(kept)) is not None:
        with suppress(RuntimeError):  # OpenVINO does not take it
            return core().import_model(known, "CPU", config)
    compiled = core().compile_model(_read(model), "CPU", config)
    with writing_cache(kept.parent, BackendError):
        write_sealed(kept, compiled.export_model().getvalue())
    return compiled


def _read(model: Model) -> ov.Model:
    """Read the network; it outputs the box tensors of a raw head in `BOX_LAYOUT`."""
    steps = PrePostProcessor(core().read_model(str(model.path)))
    for name in _raw_boxes(model):
        steps.output(name).model().set_layout(ov.Layout(NCHW))
        steps.output(name).tensor().set_layout(ov.Layout(BOX_LAYOUT))
    return steps.build()


def _raw_boxes(model: Model) -> list[str]:
    return model.outputs.box if isinstance(model.outputs, LevelsSpec) else []


class Request:
    """An inference request with output memory of its own, which every call overwrites.

    Attributes:
        heads: the output memory.
    """

    def __init__(self, compiled: ov.CompiledModel, model: Model) -> None:
        """Make a request.

        Raises:
            BackendError: the outputs are not what `model.yaml` describes.
        """
        self._request = compiled.create_infer_request()
        self._begun_ns = 0
        names = (*model.outputs.box, *model.outputs.classes)
        tensors = {name: self._request.get_tensor(name).data for name in names}
        tensors |= {name: tensors[name].transpose(0, 3, 1, 2) for name in _raw_boxes(model)}
        self.heads = heads_of(model, tensors)

    @property
    def ended_ns(self) -> int:
        """When the last call ended, see `QueuedCaller`; OpenVINO's own thread has noted it."""
        latency_ms: float = self._request.latency
        return self._begun_ns + round(latency_ms * 1e6)

    def begin(self, image: NDArray[np.uint8]) -> None:
        """Start the network on the image, in place; an error is a RuntimeError."""
        self._request.set_input_tensor(ov.Tensor(image[np.newaxis], shared_memory=True))
        self._begun_ns = time.monotonic_ns()
        self._request.start_async()

    def end(self) -> None:
        """Wait for the network to finish; an error is a RuntimeError."""
        self._request.wait()

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on the image, in place."""
        try:
            self.begin(image)
            self.end()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {last_line(error)}") from error
        return self.heads


class Backend:
    """One compiled model with one inference request; for batches a second one with several.

    A batch is several concurrent requests, each with its share of the threads. This is at least as
    fast as a network with a batch dimension, which would need the images copied one behind the
    other and a compiled network for each batch size.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._model: Model | None = None
        self._compiled: ov.CompiledModel | None = None
        self._request: Request | None = None
        self._batch_requests: list[Request] = []

    def load(self, model: Model) -> BackendInfo:
        """Compile the model for lowest latency, or read it from the cache, and run it once."""
        settings = self._settings
        if VARIABLE not in os.environ:  # of this process, whose first network this is
            kept = settings.timing_dir or settings.cache_dir
            chosen = faster_instructions(model, settings.threads, ov.__version__, kept)
            os.environ[VARIABLE] = chosen
        try:
            compiled = compile_model(model, settings.threads, settings.cache_dir)
            self._request = Request(compiled, model)
            self._compiled, self._model = compiled, model
            threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
            blank = np.zeros((model.input.height, model.input.width, 3), np.uint8)
            self.infer(blank)
            # A single thread gains nothing from a batch: it works on one image after the other.
            size = settings.max_batch if threads > 1 else 1
            self._batch_requests = []
            if size > 1:
                shared = compile_model(model, threads, settings.cache_dir, min(size, threads))
                self._batch_requests = [Request(shared, model) for _ in range(size)]
                self.infer_batch([blank] * size)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot load {model.path}: {last_line(error)}") from error
        device = str(core().get_property("CPU", "FULL_DEVICE_NAME"))
        return BackendInfo("openvino", f"OpenVINO {ov.__version__}", device, threads, size)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on the image, in place."""
        if self._request is None:
            raise BackendError("openvino: no model is loaded")
        return self._request.infer(image)

    def queue(self, count: int) -> list[Request]:
        """Make requests that all run on the same threads; see `QueuedBackend`."""
        if self._compiled is None or self._model is None:
            raise BackendError("openvino: no model is loaded")
        return [Request(self._compiled, self._model) for _ in range(count)]

    def infer_batch(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[HeadTensors]:
        """Run the network on each image, in place and concurrently."""
        check_count("openvino", images, len(self._batch_requests))
        chosen = self._batch_requests[: len(images)]
        try:
            # Waits for all that have begun, in any case: the caller releases the images after this.
            with ExitStack() as begun:
                for request, image in zip(chosen, images, strict=True):
                    request.begin(image)
                    begun.callback(request.end)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {last_line(error)}") from error
        return [request.heads for request in chosen]

    def close(self) -> None:
        """Free the compiled models."""
        self._compiled = self._request = None
        self._batch_requests = []
