"""Our engine in an FPGA, or a simulation of it; see docs/fpga.md.

$PERCEPTION_FPGA names the engine: a bitstream (.bit) on a board, or a simulated engine (.so). If it
is not set, the simulated engine of the checkout runs; its detections are right, its time is not
real.

The engine computes the same as the backend `golden`, bit for bit. The image is copied once, because
a slot is not in memory that the engine can address.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends import contract
from perception_nodes.core.counters import EngineCounters
from perception_nodes.core.inference import BackendError, HeadTensors
from perception_nodes.fpga.board import BoardEngine
from perception_nodes.fpga.bus import EngineBus
from perception_nodes.fpga.driver import EngineDriver, Slot
from perception_nodes.fpga.layout import VERSION
from perception_nodes.fpga.program import Geometry, Program, read_program
from perception_nodes.fpga.simulated import SimulatedEngine
from perception_nodes.networks.model import Model
from perception_nodes.system.environment import share_folder, writing_cache

VARIABLE = "PERCEPTION_FPGA"
SIMULATION = Path("build/fpga/libengine_512.so")
"""The simulated engine of a checkout, which runs if no engine is named."""
PACKAGE = Path(__file__).parents[1]
COMPILER_SOURCES = (
    "backends/qdq.py",
    "core/integer.py",
    "core/places.py",
    "core/tensor_graph.py",
    "fpga/*.py",
)
"""Source files that, besides the model, determine a compiled program."""


class _Frame:
    """A frame's slot, and the head tensors that are read from it."""

    def __init__(self, model: Model, program: Program, slot: Slot) -> None:
        """Allocate the tensors.

        Raises:
            BackendError: the program's outputs are not those that the model describes.
        """
        self.slot = slot
        self._reads = []
        heads: dict[str, NDArray[np.float32]] = {}
        for output in program.outputs:
            # The decoder reads all class logits, plane by plane, and the box logits of a few
            # cells, which the engine writes side by side.
            shape = output.channels, output.height, output.width
            if output.name in model.outputs.box:
                head = np.zeros((*shape[1:], shape[0]), np.float32).transpose(2, 0, 1)
            else:
                head = np.zeros(shape, np.float32)
            heads[output.name] = head[None]
            step = np.float32(2.0**-output.fraction)
            for channels, values in output.parts(slot.output.array):
                self._reads.append((values, step, head[channels]))
        self._heads = contract.heads_of(model, heads)

    def heads(self, call: EngineCounters) -> HeadTensors:
        """The head tensors of the frame that was finished in the slot."""
        for fixed, step, head in self._reads:
            np.multiply(fixed, step, out=head, dtype=np.float32, casting="unsafe")
        return HeadTensors(self._heads.boxes, self._heads.classes, call)


class Backend:
    """One engine with one program; of the settings, `threads` has no effect.

    Attributes:
        driver: driver of the engine; None while no model is loaded.
    """

    def __init__(self, settings: contract.BackendSettings) -> None:
        self._settings = settings
        self.driver: EngineDriver | None = None
        self._frames: list[_Frame] = []

    def load(self, model: Model) -> contract.BackendInfo:
        """Compile the model, or read it from the cache, and run it once."""
        self.close()
        bus = open_engine(os.environ.get(VARIABLE, ""))
        slots = self._settings.max_batch
        try:
            self.driver = driver = EngineDriver(bus)
            program = self._program(model, driver.geometry)
            driver.load(program, slots)
            self._frames = [_Frame(model, program, slot) for slot in driver.slots]
            self.infer(np.zeros((program.height, program.width, 3), np.uint8))
        except BaseException:
            if self.driver is None:
                bus.close()
            self.close()
            raise
        geometry = driver.geometry
        kind = "simulated engine" if bus.simulated else "engine"
        device = f"{kind} of {geometry.blocks * 256} MACs at {geometry.clock_mhz:g} MHz"
        runtime = f"{bus.name}, layout {VERSION}"
        return contract.BackendInfo("fpga", runtime, device, 1, slots, program.layers)

    def infer(self, image: NDArray[np.uint8]) -> HeadTensors:
        """Run the network on the engine."""
        (heads,) = self.infer_batch([image])
        return heads

    def infer_batch(self, images: Sequence[NDArray[np.uint8]]) -> Sequence[HeadTensors]:
        """Run the network on images one after the other, without a pause of the engine.

        While it computes one, the next is loaded and the results of the one before are read.
        """
        driver = self.driver
        if driver is None or driver.program is None:
            raise BackendError("fpga: no model is loaded")
        contract.check_count("fpga", images, len(self._frames))
        for image in images:
            contract.check_image("fpga", image, driver.program.width, driver.program.height)
        frames = self._frames[: len(images)]
        calls: list[EngineCounters] = []
        found: list[HeadTensors] = []
        driver.put(frames[0].slot, images[0])
        for number, frame in enumerate(frames):
            driver.start(frame.slot)
            # While the engine works, read the results before, and load the image after.
            if number > 0:
                found.append(frames[number - 1].heads(calls[-1]))
            if number + 1 < len(frames):
                driver.put(frames[number + 1].slot, images[number + 1])
            calls.append(driver.finish())
        found.append(frames[-1].heads(calls[-1]))
        return found

    def close(self) -> None:
        """Close the engine."""
        self._frames = []  # they have views of memory that is about to be freed
        if self.driver is not None:
            self.driver.close()
        self.driver = None

    def _program(self, model: Model, geometry: Geometry) -> Program:
        """The compiled model; its name in the cache tells model, engine and compiler apart."""
        folder = self._settings.cache_dir
        build = f"{geometry.blocks}x{geometry.tile}x{geometry.rows}"
        path = Path(folder) / f"{model.name}-{model.sha256[:12]}-{build}-{revision()}.fpga"
        if folder:
            try:
                program = read_program(path)
                if program.geometry == geometry:
                    return program
            except BackendError:
                pass  # there is none, or a damaged one, which is compiled again
        program = compile_model(model, geometry)
        if folder:
            with writing_cache(path.parent, BackendError):
                program.save(path)
        return program


@cache
def revision() -> str:
    """Revision of the compiler: digits that change with its source text."""
    digest = hashlib.sha256()
    for pattern in COMPILER_SOURCES:
        for file in sorted(PACKAGE.glob(pattern)):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def compile_model(model: Model, geometry: Geometry) -> Program:
    """Compile a model's file.

    Raises:
        BackendError: the file cannot be read, or the engine cannot run the model.
    """
    from perception_nodes.fpga.compiler import compile_network

    try:
        # A machine that has the compiled program needs no onnx.
        from perception_nodes.backends.qdq import read_network
    except ImportError as error:
        raise BackendError(
            f"fpga: {model.name} is not compiled yet, and {model.path} cannot be read without onnx "
            f"({error}); install it with: pip install onnx"
        ) from error
    try:
        return compile_network(read_network(model.path), geometry)
    except BackendError as error:
        raise BackendError(f"{model.path} cannot be compiled: {error}") from error


def open_engine(engine: str) -> EngineBus:
    """Open an engine: a bitstream (.bit) on a board, or a simulated engine (.so).

    Raises:
        BackendError: the engine cannot be opened.
    """
    path = Path(engine) if engine else share_folder() / SIMULATION
    if path.suffix == ".bit":
        return BoardEngine(path)
    if path.suffix == ".so":
        return SimulatedEngine(path)
    raise BackendError(
        f"fpga: ${VARIABLE} is {engine!r}, neither a bitstream (.bit) nor a simulated engine (.so)"
    )
