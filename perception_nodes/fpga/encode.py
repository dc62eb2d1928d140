"""Encoding of descriptors, parameter records and weights, in the layout of `fpga/layout.yaml`."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.inference import BackendError
from perception_nodes.core.places import Place
from perception_nodes.fpga.layout import (
    CONVOLVE_FIELDS,
    DESCRIPTOR_BYTES,
    LANES,
    LOAD_FIELDS,
    PARAMETER_BYTES,
    PARAMETER_FIELDS,
    VERSION,
    Activation,
    Field,
    Opcode,
)
from perception_nodes.fpga.lower import Buffer, Operation
from perception_nodes.fpga.program import PART, Output, pixel_beats

LIMITS = {"source0_pixel_stride": 511, "source1_pixel_stride": 511, "residual_pixel_stride": 511}
LIMITS |= dict.fromkeys(("width", "height", "source_width", "source_height"), 4095)
LIMITS |= dict.fromkeys(("groups", "source0_groups", "source1_groups"), 255)
LIMITS |= dict.fromkeys(("shift", "store_shift"), 47)
"""Largest values that the engine supports, for fields that could hold more."""


def load_descriptor(
    folded: bool, width: int, height: int, buffer: Buffer, base: int, name: str
) -> bytes:
    """The descriptor that loads the image.

    Args:
        folded: whether 2 x 2 pixels are put side by side, see `fold`.
        width: width of the image in pixels.
        height: height of the image in pixels.
        buffer: buffer that it is written to.
        base: first row of the buffer.
        name: name of the image, for errors.
    """
    values = {
        "opcode": Opcode.LOAD,
        "version": VERSION,
        "fold": folded,
        "width": width,
        "height": height,
        "target_base": base,
        "target_pixel_stride": buffer.groups,
        "target_line_stride": buffer.line_stride,
    }
    return _words(LOAD_FIELDS, values, DESCRIPTOR_BYTES, name)


def convolve_descriptor(
    operation: Operation,
    buffers: Sequence[Buffer],
    bases: Sequence[int],
    output: Output | None,
    tile: int,
    wait: bool,
    weights_offset: int,
    parameters_offset: int,
) -> bytes:
    """The descriptor that runs an operation.

    Args:
        operation: the operation.
        buffers: all buffers, by number.
        bases: first row of each buffer.
        output: where the result goes if it is an output of the network, else None.
        tile: number of vectors in a tile.
        wait: whether it reads what the descriptor before it writes.
        weights_offset: offset of its weights from the first descriptor, in bytes.
        parameters_offset: offset of its parameters from the first descriptor, in bytes.

    Raises:
        BackendError: a number does not fit into its field.
    """

    def place(prefix: str, where: Place) -> dict[str, int]:
        buffer = buffers[where.buffer]
        return {
            f"{prefix}_base": bases[where.buffer] + where.group,
            f"{prefix}_pixel_stride": buffer.groups,
            f"{prefix}_line_stride": buffer.line_stride,
        }

    values: dict[str, int] = {
        "opcode": Opcode.CONVOLVE,
        "version": VERSION,
        "narrow": not operation.wide,
        "wait": wait,
        "width": operation.out_width,
        "height": operation.out_height,
        "kernel_height": operation.kernel[0],
        "kernel_width": operation.kernel[1],
        "stride": operation.stride,
        "pad_top": operation.top,
        "pad_left": operation.left,
        "outside": operation.layer.outside & 0xFF,
        "tile": tile,
        "groups": operation.groups,
        "weights_offset": weights_offset,
        "parameters_offset": parameters_offset,
        "source_width": operation.width,
        "source_height": operation.height,
    }
    for number, segment in enumerate(operation.segments):
        values |= place(f"source{number}", segment)
        values[f"source{number}_groups"] = segment.groups
        values[f"source{number}_upsample"] = segment.upsampled
    if operation.residual is not None:
        values |= {"residual": 1, **place("residual", operation.residual)}
    if operation.target is not None:
        values |= place("target", operation.target)
    elif output is not None:
        beats = pixel_beats(operation.channels)
        values |= {
            "external": 1,
            "beats": min(beats, LANES // 4),
            "target_pixel_stride": beats,
            "target_line_stride": beats * operation.out_width,
            "output_offset": output.part_offset(LANES * operation.output_group // PART),
        }
    return _words(CONVOLVE_FIELDS, values, DESCRIPTOR_BYTES, operation.layer.name)


def parameters(operation: Operation) -> bytes:
    """The parameters of an operation: one record for each 16 output channels.

    Raises:
        BackendError: a number does not fit into its field.
    """
    layer, store = operation.layer, operation.layer.store
    values: dict[str, int | NDArray[np.int32]] = {"shift": layer.shift, "fraction": layer.fraction}
    if store is not None:
        values |= {
            "activation": Activation[layer.activation.upper()],
            "store_multiplier": store.multiplier,
            "store_shift": store.shift,
            "residual_multiplier": store.residual_multiplier,
        }
    records = []
    for group in range(operation.groups):
        channels = slice(group * LANES, (group + 1) * LANES)
        values["bias"] = operation.bias[channels].view(np.uint32)
        values["multiplier"] = operation.multiplier[channels]
        records.append(_words(PARAMETER_FIELDS, values, PARAMETER_BYTES, layer.name))
    return b"".join(records)


def weights(operation: Operation) -> bytes:
    """The weights of an operation, in the order in which the engine reads them."""
    out, height, width, channels = operation.weight.shape
    at_once = 2 * LANES if operation.wide else LANES
    shape = (out // at_once, at_once, height, width, channels // LANES, LANES)
    return operation.weight.reshape(shape).transpose(0, 2, 3, 4, 1, 5).tobytes()


def _words(
    fields: Mapping[str, Field],
    values: Mapping[str, int | NDArray[np.integer]],
    size: int,
    name: str,
) -> bytes:
    """Pack values into their fields, little-endian."""
    words = [0] * (size // 4)
    for key, value in values.items():
        field = fields[key]
        limit = LIMITS.get(key, (1 << field.bits) - 1)
        for index, number in enumerate(np.atleast_1d(value).tolist()):
            if not 0 <= number <= limit:
                raise BackendError(
                    f"fpga: {name!r} needs {key} {number}, the engine supports 0 to {limit}"
                )
            words[field.word + index] |= number << field.low
    return np.array(words, "<u4").tobytes()
