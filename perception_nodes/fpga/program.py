"""A compiled network: what lies in the engine's memory, and where its outputs will be.

In a file: a line that says what it is, a line of JSON, then the bytes for the engine's memory.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.counters import LayerEstimate
from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.layout import BEAT_BYTES, VERSION
from perception_nodes.system.files import write_whole

MAGIC = b"perception fpga program 1"


@dataclass(frozen=True)
class Geometry:
    """What was built into an engine.

    Attributes:
        blocks: of 16 x 16 multipliers; 2 or 4.
        tile: vectors in a tile at most.
        rows: of activation memory, 64 bytes each.
        clock_mhz: the clock it is meant for.
    """

    blocks: int
    tile: int
    rows: int
    clock_mhz: float

    def pixels(self, wide: bool) -> int:
        """Pixels of a vector, which enters the array in a cycle."""
        return self.blocks // 2 if wide else self.blocks


class Output(NamedTuple):
    """An output of the network in memory.

    Attributes:
        name: of the output.
        channels, height, width: of it.
        fraction: its values are `fixed` x 2^-fraction.
        offset: bytes behind the output address.
        pixel_stride, line_stride: beats of 16 bytes from one pixel, and line, to the next.
    """

    name: str
    channels: int
    height: int
    width: int
    fraction: int
    offset: int
    pixel_stride: int
    line_stride: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.height * self.line_stride * BEAT_BYTES

    def fixed(self, memory: NDArray[np.uint8]) -> NDArray[np.int32]:
        """A view of its values in the output memory, int32 [channels, height, width]."""
        values = memory[self.offset : self.offset + self.size].view("<i4")
        lines = values.reshape(self.height, -1)[:, : 4 * self.width * self.pixel_stride]
        pixels = lines.reshape(self.height, self.width, -1)[:, :, : self.channels]
        return pixels.transpose(2, 0, 1)


@dataclass(frozen=True)
class Program:
    """A network for an engine of one geometry.

    Attributes:
        geometry: of the engine.
        width, height: of the image.
        descriptors: how many; they are the first bytes of the content.
        content: descriptors, parameters and weights, as they lie in memory.
        outputs: of the network.
        rows: of activation memory that are used.
        layers: what each descriptor is expected to take.
    """

    geometry: Geometry
    width: int
    height: int
    descriptors: int
    content: bytes
    outputs: tuple[Output, ...]
    rows: int
    layers: tuple[LayerEstimate, ...]

    @property
    def output_bytes(self) -> int:
        """Size of the output memory."""
        return max(output.offset + output.size for output in self.outputs)

    @property
    def cycles(self) -> int:
        """Expected of a frame."""
        return sum(layer.cycles for layer in self.layers)

    def save(self, path: Path) -> None:
        """Write a file."""
        facts = asdict(self)
        del facts["content"]
        head = json.dumps({"layout": VERSION, "bytes": len(self.content), **facts}).encode()
        write_whole(path, b"\n".join([MAGIC, head, self.content]))


def read_program(path: Path) -> Program:
    """Read a file.

    Raises:
        BackendError: it cannot be read, or is of another version.
    """
    try:
        magic, head, content = path.read_bytes().split(b"\n", 2)
        facts = json.loads(head)
        if magic != MAGIC or facts.pop("layout") != VERSION:
            raise ValueError("it is of another version")
        if facts.pop("bytes") != len(content):
            raise ValueError("it is not complete")
        facts["geometry"] = Geometry(**facts["geometry"])
        facts["outputs"] = tuple(Output(*output) for output in facts["outputs"])
        facts["layers"] = tuple(LayerEstimate(*layer) for layer in facts["layers"])
        return Program(content=content, **facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BackendError(f"fpga: {path} cannot be read: {reason}; compile it again") from error
