"""A compiled network: the content of the engine's memory, and the places of its outputs.

A file has a line with the type of the file, one with the SHA-256 of the rest, a line of JSON, and
the bytes for the engine's memory.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.counters import LayerEstimate
from perception_nodes.core.inference import BackendError
from perception_nodes.fpga.layout import BEAT_BYTES, LANES, VERSION
from perception_nodes.system.files import write_whole

MAGIC = b"perception fpga program 3"
PART = 2 * LANES
"""Channels of an output that lie together in output memory."""
ALIGNMENT = 256
"""Bytes of which bursts cross no multiple."""


@dataclass(frozen=True)
class Geometry:
    """Build parameters of an engine.

    Attributes:
        blocks: number of blocks of 16 x 16 multipliers; 2 or 4.
        tile: largest number of vectors in a tile.
        rows: number of rows of activation memory, 64 bytes each.
        clock_mhz: clock that the engine is designed for.
    """

    blocks: int
    tile: int
    rows: int
    clock_mhz: float

    def pixels(self, wide: bool) -> int:
        """Number of pixels in a vector, which enters the array in one cycle."""
        return self.blocks // 2 if wide else self.blocks


def aligned(size: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def pixel_beats(channels: int) -> int:
    """Beats in which the channels of a pixel are written, up to `PART` of them."""
    return next(beats for beats in (1, 2, 4, 8) if 4 * beats >= channels)


class Output(NamedTuple):
    """An output of the network in output memory, in parts of 32 channels and one of the rest.

    A part has no gaps between its pixels, so the engine writes it in long bursts.

    Attributes:
        name: name of the output.
        channels, height, width: its shape.
        fraction: its values are `fixed` x 2^-fraction.
        offset: offset in output memory, bytes.
    """

    name: str
    channels: int
    height: int
    width: int
    fraction: int
    offset: int

    def part_offset(self, part: int) -> int:
        """Offset of a part in output memory, bytes."""
        return self.offset + part * aligned(self._bytes(PART))

    @property
    def end(self) -> int:
        """Offset behind the output, bytes."""
        last = (self.channels - 1) // PART
        return self.part_offset(last) + aligned(self._bytes(self.channels - last * PART))

    @property
    def written_bytes(self) -> int:
        """Bytes that the engine writes for it, without the gaps between parts."""
        whole, rest = divmod(self.channels, PART)
        return whole * self._bytes(PART) + (self._bytes(rest) if rest else 0)

    def parts(self, memory: NDArray[np.uint8]) -> Iterator[tuple[slice, NDArray[np.int32]]]:
        """The channels of each part, and a view of their values, int32 [channels, y, x]."""
        for part, begin in enumerate(range(0, self.channels, PART)):
            channels = slice(begin, min(begin + PART, self.channels))
            count, offset = channels.stop - begin, self.part_offset(part)
            values = memory[offset : offset + self._bytes(count)].view("<i4")
            pixels = values.reshape(self.height, self.width, -1)[:, :, :count]
            yield channels, pixels.transpose(2, 0, 1)

    def fixed(self, memory: NDArray[np.uint8]) -> NDArray[np.int32]:
        """A copy of all its values, int32 [channels, y, x]."""
        return np.concatenate([values for _, values in self.parts(memory)])

    def _bytes(self, channels: int) -> int:
        return self.height * self.width * pixel_beats(channels) * BEAT_BYTES


@dataclass(frozen=True)
class Program:
    """A network compiled for an engine of one geometry.

    Attributes:
        geometry: geometry of the engine.
        width, height: size of the image.
        descriptors: number of descriptors, with which the content begins.
        content: bytes of descriptors, parameters and weights for the engine's memory.
        outputs: outputs of the network.
        rows: number of rows of activation memory used.
        layers: expected cost of each descriptor.
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
        """Size of the output memory in bytes."""
        return max(output.end for output in self.outputs)

    @property
    def written_bytes(self) -> int:
        """Bytes of it that the engine writes for a frame."""
        return sum(output.written_bytes for output in self.outputs)

    @property
    def cycles(self) -> int:
        """Expected number of cycles for a frame."""
        return sum(layer.cycles for layer in self.layers)

    def save(self, path: Path) -> None:
        """Write the program to a file."""
        facts = asdict(self)
        del facts["content"]
        rest = json.dumps({"layout": VERSION, **facts}).encode() + b"\n" + self.content
        write_whole(path, b"\n".join([MAGIC, hashlib.sha256(rest).hexdigest().encode(), rest]))


def read_program(path: Path) -> Program:
    """Read a program from a file.

    Raises:
        BackendError: the file cannot be read, is damaged, or is of another version.
    """
    try:
        magic, digest, rest = path.read_bytes().split(b"\n", 2)
        if magic != MAGIC:
            raise ValueError("it is of another version")
        if digest.decode() != hashlib.sha256(rest).hexdigest():
            raise ValueError("it is damaged")
        head, content = rest.split(b"\n", 1)
        facts = json.loads(head)
        if facts.pop("layout") != VERSION:
            raise ValueError("it is of another version")
        facts["geometry"] = Geometry(**facts["geometry"])
        facts["outputs"] = tuple(Output(*output) for output in facts["outputs"])
        facts["layers"] = tuple(LayerEstimate(*layer) for layer in facts["layers"])
        return Program(content=content, **facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BackendError(f"fpga: {path} cannot be read: {reason}; compile it again") from error
