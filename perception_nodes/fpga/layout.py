"""The engine's registers, descriptors, parameter records and causes.

Generated from fpga/layout.yaml by fpga/generate.py.
"""

from enum import IntEnum
from typing import NamedTuple


class Field(NamedTuple):
    """Bits of a little-endian 32-bit word; an array takes `words` of them."""

    word: int
    low: int
    bits: int
    words: int = 1

    @property
    def mask(self) -> int:
        """The field's bits, all set."""
        return ((1 << self.bits) - 1) << self.low

    def of(self, value: int) -> int:
        """The field's value in a word."""
        return (value & self.mask) >> self.low


VERSION = 1
ID = 1347306309
LANES = 16
BANKS = 4
DESCRIPTOR_BYTES = 64
PARAMETER_BYTES = 144
BEAT_BYTES = 16
SMALLEST_TILE = 8


class Opcode(IntEnum):
    """What a descriptor asks for."""

    LOAD = 1
    CONVOLVE = 2


class Activation(IntEnum):
    """What follows a convolution."""

    NONE = 0
    RELU = 1
    HARDSWISH = 2


class Cause(IntEnum):
    """Why a frame was abandoned."""

    NONE = 0
    VERSION = 1
    OPCODE = 2
    SIZE = 3
    GEOMETRY = 4
    ADDRESS = 5
    ALIGNMENT = 6
    READ = 7
    WRITE = 8
    TIMEOUT = 9
    EMPTY = 10


class Register(IntEnum):
    """Byte offsets of the registers."""

    ID = 0x00
    VERSION = 0x04
    GEOMETRY = 0x08
    ROWS = 0x0C
    CONTROL = 0x10
    STATUS = 0x14
    DESCRIPTORS_LOW = 0x18
    DESCRIPTORS_HIGH = 0x1C
    COUNT = 0x20
    TIMEOUT = 0x24
    IMAGE_LOW = 0x28
    IMAGE_HIGH = 0x2C
    OUTPUT_LOW = 0x30
    OUTPUT_HIGH = 0x34
    CYCLES = 0x40
    MAC_CYCLES = 0x44
    STALL_WEIGHTS = 0x48
    STALL_DRAIN = 0x4C
    STALL_DEPENDENCY = 0x50
    STALL_PORT = 0x54
    STALL_FETCH = 0x58
    READ_BYTES = 0x5C
    WRITE_BYTES = 0x60


CAUSES: dict[int, str] = {
    0: "no error",
    1: "a descriptor's version is not the engine's",
    2: "an unknown opcode",
    3: "a size, count, kernel or stride is zero or above what the engine has",
    4: "sizes that do not go together: tile, groups of a wide layer, image width, beats",
    5: "a tensor reaches outside of the activation memory",
    6: "an address in memory is not aligned",
    7: "the bus answered a read with SLVERR or DECERR",
    8: "the bus answered a write with SLVERR or DECERR",
    9: "the bus made no progress for TIMEOUT cycles",
    10: "start with a COUNT of zero",
}

GEOMETRY_FIELDS: dict[str, Field] = {
    "blocks": Field(0, 0, 8),
    "tile": Field(0, 8, 16),
    "clock_mhz": Field(0, 24, 8),
}

CONTROL_FIELDS: dict[str, Field] = {
    "start": Field(0, 0, 1),
    "reset": Field(0, 1, 1),
    "irq_enable": Field(0, 2, 1),
}

STATUS_FIELDS: dict[str, Field] = {
    "busy": Field(0, 0, 1),
    "done": Field(0, 1, 1),
    "error": Field(0, 2, 1),
    "cause": Field(0, 8, 8),
    "index": Field(0, 16, 16),
}

LOAD_FIELDS: dict[str, Field] = {
    "opcode": Field(0, 0, 8),
    "version": Field(0, 8, 8),
    "fold": Field(0, 16, 1),
    "width": Field(1, 0, 16),
    "height": Field(1, 16, 16),
    "source_offset": Field(4, 0, 32),
    "target_base": Field(13, 0, 16),
    "target_pixel_stride": Field(13, 16, 16),
    "target_line_stride": Field(14, 0, 16),
}

CONVOLVE_FIELDS: dict[str, Field] = {
    "opcode": Field(0, 0, 8),
    "version": Field(0, 8, 8),
    "narrow": Field(0, 16, 1),
    "wait": Field(0, 17, 1),
    "residual": Field(0, 18, 1),
    "external": Field(0, 19, 1),
    "source0_upsample": Field(0, 20, 1),
    "source1_upsample": Field(0, 21, 1),
    "width": Field(1, 0, 16),
    "height": Field(1, 16, 16),
    "kernel_height": Field(2, 0, 4),
    "kernel_width": Field(2, 4, 4),
    "stride": Field(2, 8, 4),
    "pad_top": Field(2, 12, 4),
    "pad_left": Field(2, 16, 4),
    "outside": Field(2, 24, 8),
    "tile": Field(3, 0, 16),
    "groups": Field(3, 16, 16),
    "weights_offset": Field(4, 0, 32),
    "parameters_offset": Field(5, 0, 32),
    "source0_base": Field(6, 0, 16),
    "source0_groups": Field(6, 16, 16),
    "source0_pixel_stride": Field(7, 0, 16),
    "source0_line_stride": Field(7, 16, 16),
    "source1_base": Field(8, 0, 16),
    "source1_groups": Field(8, 16, 16),
    "source1_pixel_stride": Field(9, 0, 16),
    "source1_line_stride": Field(9, 16, 16),
    "source_width": Field(10, 0, 16),
    "source_height": Field(10, 16, 16),
    "residual_base": Field(11, 0, 16),
    "residual_pixel_stride": Field(11, 16, 16),
    "residual_line_stride": Field(12, 0, 16),
    "beats": Field(12, 16, 4),
    "target_base": Field(13, 0, 16),
    "target_pixel_stride": Field(13, 16, 16),
    "target_line_stride": Field(14, 0, 16),
    "output_offset": Field(15, 0, 32),
}

PARAMETER_FIELDS: dict[str, Field] = {
    "bias": Field(0, 0, 32, 16),
    "multiplier": Field(16, 0, 17, 16),
    "store_multiplier": Field(32, 0, 17),
    "residual_multiplier": Field(33, 0, 17),
    "shift": Field(34, 0, 6),
    "fraction": Field(34, 8, 4),
    "activation": Field(34, 16, 2),
    "store_shift": Field(34, 24, 6),
}
