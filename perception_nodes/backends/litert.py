"""LiteRT (TensorFlow Lite): on the CPU, or on a TPU or NPU by its delegate; see docs/tpu.md.

$PERCEPTION_DELEGATE names the delegate, a library and its options: `libedgetpu.so.1,device=usb`. If
it is not set, the CPU computes. A model becomes a full-integer file as it is loaded.

The image is copied once: a slot has bytes, and the network's input codes are these less 128.
"""

import ctypes
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ai_edge_litert
import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate
from numpy.typing import NDArray

from perception_nodes.backends.contract import BackendInfo, BackendSettings, check_image, heads_of
from perception_nodes.backends.delegate import DELEGATE
from perception_nodes.backends.litert_writer import VERSION, write
from perception_nodes.backends.qdq import read_network
from perception_nodes.core.inference import CERTAIN, BackendError, BackendLost, HeadTensors
from perception_nodes.networks.model import LevelsSpec, Model
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.files import write_whole
from perception_nodes.system.processes import physical_cores

EDGE_TPU = "libedgetpu"


class Backend:
    """One interpreter with one model."""

    def __init__(self, settings: BackendSettings) -> None:
        self._threads = settings.threads or physical_cores()
        self._cache = settings.cache_dir
        self._interpreter: Any = None
        self._library = ""
        self._input = 0
        self._size = (0, 0)
        self._outputs: list[tuple[int, float, NDArray[np.float32]]] = []
        self._heads = HeadTensors([], [])

    def load(self, model: Model) -> BackendInfo:
        """Write the model's file, or read it from the cache, and run it once."""
        self.close()
        library, options = _delegate(os.environ.get(DELEGATE, ""))
        self._library = library
        (content, name), device = self._file(model, library), "CPU"
        try:
            if library:  # LiteRT prints a traceback if it is no delegate at all
                _ = ctypes.CDLL(library).tflite_plugin_create_delegate
            delegates = [load_delegate(library, options)] if library else []
        except (AttributeError, ValueError, OSError) as error:
            why = f"the delegate {library} of ${DELEGATE} cannot be loaded: {error}"
            raise BackendError(f"litert: {why}") from error
        try:
            self._interpreter = interpreter = Interpreter(
                model_content=content, num_threads=self._threads, experimental_delegates=delegates
            )
            if library:  # before the CPU's own delegate takes what is left
                device = f"{library}, {share(interpreter._get_ops_details())}"
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise BackendError(f"LiteRT cannot load {name}: {error}") from error
        self._input = interpreter.get_input_details()[0]["index"]
        self._size = (model.input.width, model.input.height)
        found = {output["name"]: output for output in interpreter.get_output_details()}
        heads = {}
        for tensor, output in found.items():
            # Boxes stay in the order they have; the decoder is faster with classes one by one.
            places = np.zeros(output["shape"], np.float32).transpose(0, 3, 1, 2)
            heads[tensor] = places if tensor in model.outputs.box else places.copy(order="C")
            self._outputs.append((output["index"], output["quantization"][0], heads[tensor]))
        self._heads = heads_of(model, heads, name)
        self.infer(np.zeros((model.input.height, model.input.width, 3), np.uint8))
        return BackendInfo("litert", f"LiteRT {ai_edge_litert.__version__}", device, self._threads)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on a copy of the image."""
        interpreter = self._interpreter
        if interpreter is None:
            raise BackendError("litert: no model is loaded")
        check_image("litert", image, *self._size)
        # The views must not outlive this: the interpreter may move its memory.
        np.bitwise_xor(image.view(np.int8), np.int8(-128), out=interpreter.tensor(self._input)()[0])
        try:
            interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            if self._library:  # a device that has gone answers no later call either
                raise BackendLost(f"LiteRT failed with {self._library}: {error}") from error
            raise BackendError(f"LiteRT failed: {error}") from error
        for index, step, head in self._outputs:
            codes = interpreter.tensor(index)()
            np.multiply(codes.transpose(0, 3, 1, 2), np.float32(step), out=head)
        return self._heads

    def close(self) -> None:
        """Drop the interpreter."""
        self._interpreter = None
        self._outputs, self._heads = [], HeadTensors([], [])

    def _file(self, model: Model, library: str) -> tuple[bytes, str]:
        """The model as a full-integer file, and what it is called in errors.

        It is written anew each time, in 0.3 s, since a cached one could be damaged. For an Edge TPU
        it is what Google's compiler has made of that file.
        """
        if not isinstance(model.outputs, LevelsSpec):
            which = (
                "which only models are that `perception model compress` or `calibrate` has written"
            )
            raise BackendError(f"litert: {model.name} is not an integer network, {which}")
        name = f"{model.name}-{model.sha256[:12]}-{VERSION}"
        if EDGE_TPU in library:
            # Made by hand, so it lies in one place, and not where a command tries a model out.
            folder = cache_folder()
            made = folder / f"{name}_edgetpu.tflite"
            if made.is_file():
                return made.read_bytes(), str(made)
            raise BackendError(
                f"litert: {made} is not there; make it with: edgetpu_compiler -s -o {folder} "
                f"{folder / name}.tflite (which `perception model compile {model.name} --backend "
                f"litert` writes where ${DELEGATE} is not set)"
            )
        content = write(read_network(model.path), dict.fromkeys(model.outputs.classes, CERTAIN))
        if self._cache:
            # For edgetpu_compiler alone; `perception model compile` tells if it cannot be written.
            with suppress(OSError):
                write_whole(Path(self._cache) / f"{name}.tflite", content)
        return content, model.name


def share(operators: Sequence[Mapping[str, Any]]) -> str:
    """The share of a network's operators that a delegate has taken; the others are silently slow.

    Args:
        operators: the interpreter's operators. For each group that the delegate has taken there is
            one more, named DELEGATE.
    """
    ours = [operator for operator in operators if operator["op_name"] != "DELEGATE"]
    makers = {int(tensor): number for number, o in enumerate(ours) for tensor in o["outputs"]}
    taken: set[int] = set()
    for group in operators:
        if group["op_name"] != "DELEGATE":
            continue
        begins, open_ends = set(map(int, group["inputs"])), list(map(int, group["outputs"]))
        while open_ends:
            tensor = open_ends.pop()
            if tensor in makers and tensor not in begins and makers[tensor] not in taken:
                taken.add(makers[tensor])
                open_ends += map(int, ours[makers[tensor]]["inputs"])
    left = "" if len(taken) == len(ours) else ", the rest on the CPU"
    return f"{len(taken)} of {len(ours)} operators{left}"


def _delegate(text: str) -> tuple[str, dict[str, str]]:
    """A delegate's library and options from `library,name=value,...`.

    Raises:
        BackendError: it is not of this form.
    """
    library, *pairs = text.split(",")
    if any("=" not in pair for pair in pairs) or (pairs and not library):
        raise BackendError(f"litert: ${DELEGATE} is {text!r}, not library,name=value,...")
    return library, dict(pair.split("=", 1) for pair in pairs)
