"""OpenVINO on the CPU: the slot is its input tensor, nothing is copied on the way in."""

import os
from functools import cache

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from perception_nodes.backends.base import BackendInfo, BackendSettings, check_heads
from perception_nodes.backends.model import Model
from perception_nodes.core.pipeline import BackendError, HeadTensors

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


def compile_for_latency(network: str | ov.Model, threads: int, cache_dir: str) -> ov.CompiledModel:
    """Compile a network as the run time does.

    Args:
        network: an ONNX file, or a network in memory.
        threads: threads a call may use; 0 for one a physical core.
        cache_dir: folder for compiled models, empty for none.
    """
    config: dict[str, object] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # The default is bf16 on CPUs that have it: other numbers than everywhere else.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    if cache_dir:
        config["CACHE_DIR"] = cache_dir
    return core().compile_model(network, "CPU", config)


class Backend:
    """One compiled model and one inference request."""

    def __init__(self, settings: BackendSettings) -> None:
        """See `BackendSettings`."""
        self._settings = settings
        self._request: ov.InferRequest | None = None
        self._boxes: list[NDArray[np.float32]] = []
        self._classes: list[NDArray[np.float32]] = []

    def load(self, model: Model) -> BackendInfo:
        """Compile for lowest latency, from the cache where it holds this model."""
        settings = self._settings
        try:
            compiled = compile_for_latency(str(model.path), settings.threads, settings.cache_dir)
            request = compiled.create_infer_request()
            self._request = request
            names = [*model.outputs.box, *model.outputs.classes]
            tensors = [self._output(request, name) for name in names]
            self._boxes = tensors[: len(model.outputs.box)]
            self._classes = tensors[len(model.outputs.box) :]
            check_heads(model, HeadTensors(self._boxes, self._classes))
            self.infer(np.zeros((model.input.height, model.input.width, 3), np.uint8))
        except BackendError:
            raise
        except RuntimeError as error:
            raise BackendError(
                f"OpenVINO cannot load {model.path}: {_first_line(error)}"
            ) from error
        threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        device = str(core().get_property("CPU", "FULL_DEVICE_NAME"))
        return BackendInfo("openvino", f"OpenVINO {ov.__version__}", device, threads)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on the image in place."""
        if self._request is None:
            raise BackendError("openvino: no model is loaded")
        try:
            self._request.set_input_tensor(ov.Tensor(image[np.newaxis], shared_memory=True))
            self._request.start_async()
            self._request.wait()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed: {_first_line(error)}") from error
        return HeadTensors(self._boxes, self._classes)

    def close(self) -> None:
        """Drop the compiled model."""
        self._boxes, self._classes = [], []
        self._request = None

    @staticmethod
    def _output(request: ov.InferRequest, name: str) -> NDArray[np.float32]:
        """The request's own output memory, which every call fills again."""
        data: NDArray[np.float32] = request.get_tensor(name).data
        return data


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1]
