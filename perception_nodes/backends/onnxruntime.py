"""ONNX Runtime on the CPU, bound to the slot and to output memory of our own."""

import os

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from perception_nodes.backends.base import BackendInfo, BackendSettings, check_heads
from perception_nodes.backends.model import Model
from perception_nodes.core.pipeline import BackendError, HeadTensors


class Backend:
    """One session and its bindings."""

    def __init__(self, settings: BackendSettings) -> None:
        """See `BackendSettings`; this runtime keeps no cache."""
        self._threads = settings.threads or (os.cpu_count() or 1)
        self._session: ort.InferenceSession | None = None
        self._binding: ort.IOBinding | None = None
        self._input = ""
        self._heads = HeadTensors([], [])

    def load(self, model: Model) -> BackendInfo:
        """Optimise the graph and run it once."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning threads would take the camera's core while they wait for the next frame.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._input = model.input.name
        names = [*model.outputs.box, *model.outputs.classes]
        try:
            session = ort.InferenceSession(
                str(model.path), options, providers=["CPUExecutionProvider"]
            )
            shapes = {output.name: output.shape for output in session.get_outputs()}
            binding = session.io_binding()
            tensors = []
            for name in names:
                tensor = np.zeros(shapes[name], np.float32)
                binding.bind_output(name, "cpu", 0, np.float32, tensor.shape, tensor.ctypes.data)
                tensors.append(tensor)
            boxes = len(model.outputs.box)
            self._heads = HeadTensors(tensors[:boxes], tensors[boxes:])
            check_heads(model, self._heads)
            self._session, self._binding = session, binding
            self.infer(np.zeros((model.input.height, model.input.width, 3), np.uint8))
        except KeyError as error:
            raise BackendError(f"{model.path} has no output {error}") from error
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime cannot load {model.path}: {_one_line(error)}"
            ) from error
        return BackendInfo("onnxruntime", f"ONNX Runtime {ort.__version__}", "CPU", self._threads)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on the image in place."""
        if self._session is None or self._binding is None:
            raise BackendError("onnxruntime: no model is loaded")
        if not image.flags.c_contiguous or image.dtype != np.uint8:
            # The binding takes an address alone and would read whatever lies there.
            raise BackendError("onnxruntime: the image is not contiguous uint8")
        try:
            self._binding.bind_input(
                self._input, "cpu", 0, np.uint8, (1, *image.shape), image.ctypes.data
            )
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed: {_one_line(error)}") from error
        return self._heads

    def close(self) -> None:
        """Drop the session."""
        self._session = self._binding = None
        self._heads = HeadTensors([], [])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
