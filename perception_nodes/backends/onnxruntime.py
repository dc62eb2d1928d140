"""ONNX Runtime on the CPU: the slot is bound as input, and memory of our own as output."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendInfo, BackendSettings, check_count, heads_of
from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.networks.model import Model
from perception_nodes.system.processes import physical_cores


class Backend:
    """One session and its bindings; this runtime keeps no cache.

    A batch is several concurrent calls of the session. A network with a batch dimension is no
    faster, needs the images copied one behind the other, and gives other numbers, because the
    rounding depends on how this runtime divides the work among its threads.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self._threads = settings.threads or physical_cores()
        # A single thread gains nothing from a batch: it works on one image after the other.
        self._max_batch = settings.max_batch if self._threads > 1 else 1
        self._session: ort.InferenceSession | None = None
        self._input = ""
        self._bound: list[tuple[ort.IOBinding, HeadTensors]] = []
        self._callers: ThreadPoolExecutor | None = None

    def load(self, model: Model) -> BackendInfo:
        """Optimise the graph and run it once."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # While they wait for the next frame, spinning threads would take the camera's core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._input = model.input.name
        self._callers = ThreadPoolExecutor(max(1, self._max_batch - 1))
        try:
            on_cpu = ["CPUExecutionProvider"]
            session = ort.InferenceSession(str(model.path), options, providers=on_cpu)
            self._bound = [self._bind(session, model) for _ in range(self._max_batch)]
            self._session = session
            blank = np.zeros((model.input.height, model.input.width, 3), np.uint8)
            self.infer_batch([blank] * self._max_batch)
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"ONNX Runtime cannot load {model.path}: {error}") from error
        runtime = f"ONNX Runtime {ort.__version__}"
        return BackendInfo("onnxruntime", runtime, "CPU", self._threads, self._max_batch)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on the image, in place."""
        return self._run(0, image)

    def infer_batch(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[HeadTensors]:
        """Run the network on each image, in place and concurrently."""
        if self._session is None or self._callers is None:
            raise BackendError("onnxruntime: no model is loaded")
        check_count("onnxruntime", images, len(self._bound))
        calls = [self._callers.submit(self._run, n, image) for n, image in enumerate(images[1:], 1)]
        try:
            first = self._run(0, images[0])
        finally:
            # Wait for all calls in any case: the caller releases the images after this.
            failures = [error for call in calls if (error := call.exception()) is not None]
        if failures:
            raise failures[0]
        return [first, *(call.result() for call in calls)]

    def close(self) -> None:
        """Drop the session."""
        if self._callers is not None:
            self._callers.shutdown()
        self._session = self._callers = None
        self._bound = []

    @staticmethod
    def _bind(session: ort.InferenceSession, model: Model) -> tuple[ort.IOBinding, HeadTensors]:
        """Make a binding with output memory of its own."""
        binding = session.io_binding()
        tensors = {}
        wanted = {*model.outputs.box, *model.outputs.classes}
        for output in (one for one in session.get_outputs() if one.name in wanted):
            tensors[output.name] = tensor = np.zeros(output.shape, np.float32)
            binding.bind_output(output.name, "cpu", 0, np.float32, tensor.shape, tensor.ctypes.data)
        return binding, heads_of(model, tensors)

    def _run(self, number: int, image: NDArray[np.uint8]) -> HeadTensors:
        if self._session is None:
            raise BackendError("onnxruntime: no model is loaded")
        if not image.flags.c_contiguous or image.dtype != np.uint8:
            # The binding only gets an address and would read whatever lies there.
            raise BackendError("onnxruntime: the image is not contiguous uint8")
        binding, heads = self._bound[number]
        try:
            shape = (1, *image.shape)
            binding.bind_input(self._input, "cpu", 0, np.uint8, shape, image.ctypes.data)
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed: {error}") from error
        return heads
