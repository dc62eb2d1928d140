"""Single layers on the simulated engine, encoded here without the compiler.

Tensors get into the activation memory as parts of images (LOAD brings 12 channels of 16, a 1 x 1
convolution puts the other four to them), and leave through another 1 x 1 convolution: both are
exact, since a code times 2^16, shifted by 16, is the code.
"""

from dataclasses import dataclass, replace

import numpy as np

from perception_nodes.core.integer import Convolution, Store
from perception_nodes.fpga import layout
from perception_nodes.fpga.layout import CONVOLVE_FIELDS, LOAD_FIELDS, PARAMETER_FIELDS, Register
from perception_nodes.fpga.simulated import SimulatedEngine

PROGRAM, IMAGES, OUTPUTS = 0x0100_0000, 0x0200_0000, 0x0300_0000
UNIT = 1 << 16
IRQ = 1 << layout.CONTROL_FIELDS["irq_enable"].low
START = 1 << layout.CONTROL_FIELDS["start"].low
RESET = 1 << layout.CONTROL_FIELDS["reset"].low


def pack(fields, size, **values):
    """Words with these fields; an array fills a field of several words."""
    words = np.zeros(size // 4, np.uint32)
    for name, value in values.items():
        field = fields[name]
        for word, item in enumerate(np.broadcast_to(value, field.words), field.word):
            value = int(item)
            assert -(1 << field.bits - 1) <= value < 1 << field.bits, (name, value)
            words[word] |= np.uint32((value & (1 << field.bits) - 1) << field.low)
    return words.tobytes()


@dataclass(frozen=True)
class Tensor:
    """Groups of a buffer in the activation memory."""

    base: int
    pixel_stride: int
    line_stride: int
    groups: int
    height: int
    width: int


class Bench:
    """A list of descriptors under construction, and the engine that runs it."""

    def __init__(self, engine: SimulatedEngine):
        self.engine = engine
        self.blocks = engine.read(Register.GEOMETRY) & 0xFF
        self.descriptors: list[dict] = []
        self.payload: list[bytes] = []
        self.images: list[bytes] = []
        self.outputs: list[tuple[int, int, int, int, int, int]] = []
        self.rows = 0
        self.output_bytes = 0

    def tensor(self, groups, height, width):
        """Free memory for a tensor."""
        line_stride = -(-width // 4) * groups
        base, self.rows = self.rows, self.rows + height * line_stride
        return Tensor(base, groups, line_stride, groups, height, width)

    def part(self, tensor, first, groups):
        """Some groups of a tensor."""
        base, strides = tensor.base + first, (tensor.pixel_stride, tensor.line_stride)
        return Tensor(base, *strides, groups, tensor.height, tensor.width)

    def load(self, image, fold):
        """LOAD uint8 [height, width, 3]; returns the tensor that is written."""
        height, width, _ = image.shape
        scale = 2 if fold else 1
        tensor = self.tensor(1, height // scale, width // scale)
        offset = sum(map(len, self.images))
        self.images.append(image.tobytes() + bytes(-image.size % 16))
        self.descriptors.append(
            dict(
                fields=LOAD_FIELDS,
                opcode=layout.Opcode.LOAD,
                version=layout.VERSION,
                fold=fold,
                width=width,
                height=height,
                source_offset=offset,
                target_base=tensor.base,
                target_pixel_stride=tensor.pixel_stride,
                target_line_stride=tensor.line_stride,
            )
        )
        return tensor

    def put(self, codes):
        """Bring int8 [channels, height, width] into memory, channels a multiple of 16."""
        channels, height, width = codes.shape
        target = self.tensor(channels // 16, height, width)
        wide = -(-width // 4) * 4
        padded = np.zeros((channels, height, wide), np.int8)
        padded[:, :, :width] = codes
        for group in range(channels // 16):
            part = padded[16 * group : 16 * group + 16]
            rows = self.rows
            halves = []
            for lanes in (part[:12], np.concatenate([part[12:], part[:8]])):
                # [dy, dx, c, y, x] -> [y, dy, x, dx, c]
                pixels = lanes.reshape(2, 2, 3, height, wide).transpose(3, 0, 4, 1, 2)
                image = pixels.reshape(2 * height, 2 * wide, 3).astype(np.int16) + 128
                loaded = self.load(image.astype(np.uint8), fold=True)
                halves.append(replace(loaded, width=width))
            weight = np.zeros((16, 32, 1, 1), np.int16)
            weight[np.arange(12), np.arange(12)] = 1
            weight[np.arange(12, 16), np.arange(16, 20)] = 1
            self.convolve(copy_of(weight), halves, target=self.part(target, group, 1))
            self.rows = rows  # what was loaded may be overwritten by then
        return target

    def get(self, tensor):
        """Write a tensor to memory; returns its index among the results of `run`."""
        weight = np.zeros((16 * tensor.groups, 16 * tensor.groups, 1, 1), np.int16)
        weight[np.arange(16 * tensor.groups), np.arange(16 * tensor.groups)] = 1
        return self.convolve(copy_of(weight, stored=False), [tensor])

    def convolve(
        self,
        layer: Convolution,
        segments,
        *,
        target=None,
        residual=None,
        upsample=(False, False),
        narrow=None,
        tile=64,
        wait=True,
        beats=4,
        **changes,
    ):
        """One CONVOLVE.

        Args:
            layer: its weights are [out, in, ky, kx], out and in multiples of 16, but for a result
                that leaves with fewer beats.
            segments: one or two tensors.
            target: None where the result leaves the engine.
            changes: fields to be set otherwise.

        Returns:
            The place of the result among those of `run`, where it leaves.
        """
        out, _, kernel_height, kernel_width = layer.weight.shape
        groups = -(-out // 16)
        narrow = groups % 2 == 1 if narrow is None else narrow
        channels = 16 if narrow else 32
        factor = 2 if upsample[0] else 1
        height, width = factor * segments[0].height, factor * segments[0].width
        top, left, bottom, right = layer.pads
        out_height = (height + top + bottom - kernel_height) // layer.stride + 1
        out_width = (width + left + right - kernel_width) // layer.stride + 1

        weight = np.zeros((16 * groups, *layer.weight.shape[1:]), np.int8)
        weight[:out] = layer.weight
        words = weight.reshape(-1, channels, weight.shape[1] // 16, 16, kernel_height, kernel_width)
        weights = words.transpose(0, 4, 5, 2, 1, 3).tobytes()
        store = layer.store or Store(0, 0)
        bias, multiplier = np.zeros((2, 16 * groups), np.int32)
        bias[:out], multiplier[:out] = layer.bias, layer.multiplier
        parameters = b"".join(
            pack(
                PARAMETER_FIELDS,
                layout.PARAMETER_BYTES,
                bias=bias[16 * group : 16 * group + 16],
                multiplier=multiplier[16 * group : 16 * group + 16],
                store_multiplier=store.multiplier,
                residual_multiplier=store.residual_multiplier,
                shift=layer.shift,
                fraction=layer.fraction,
                activation=layout.Activation[layer.activation.upper()],
                store_shift=store.shift,
            )
            for group in range(groups)
        )
        fields = dict(
            fields=CONVOLVE_FIELDS,
            opcode=layout.Opcode.CONVOLVE,
            version=layout.VERSION,
            narrow=narrow,
            wait=wait,
            residual=residual is not None,
            external=target is None,
            source0_upsample=upsample[0],
            source1_upsample=upsample[1],
            width=out_width,
            height=out_height,
            kernel_height=kernel_height,
            kernel_width=kernel_width,
            stride=layer.stride,
            pad_top=top,
            pad_left=left,
            outside=layer.outside,
            tile=tile,
            groups=groups,
            weights_offset=self._pay(weights),
            parameters_offset=self._pay(parameters),
            source_width=width,
            source_height=height,
        )
        places = {f"source{i}": segment for i, segment in enumerate(segments)}
        if residual is not None:
            places["residual"] = residual
        if target is not None:
            places["target"] = target
        for name, place in places.items():
            fields[f"{name}_base"] = place.base
            fields[f"{name}_pixel_stride"] = place.pixel_stride
            fields[f"{name}_line_stride"] = place.line_stride
            if name.startswith("source"):
                fields[f"{name}_groups"] = place.groups
        if target is None:
            pixel_stride = beats * groups
            offset = self.output_bytes
            fields |= dict(beats=beats, target_pixel_stride=pixel_stride, output_offset=offset)
            fields["target_line_stride"] = line_stride = pixel_stride * out_width
            self.output_bytes += -(-16 * line_stride * out_height // 64) * 64
            self.outputs.append((offset, out_height, out_width, pixel_stride, out, line_stride))
        self.descriptors.append(fields | changes)
        return len(self.outputs) - 1 if target is None else target

    def _pay(self, content):
        """Offset of the content after the descriptors, whose table is not complete yet."""
        self.payload.append(content + bytes(-len(content) % 16))
        return sum(map(len, self.payload[:-1]))

    def program(self):
        """Descriptors and what follows them, as bytes."""
        behind = 64 * len(self.descriptors)
        table = b""
        for entry in self.descriptors:
            fields = dict(entry)
            table_of = fields.pop("fields")
            for name in ("weights_offset", "parameters_offset"):
                if name in fields:
                    fields[name] += behind
            table += pack(table_of, 64, **fields)
        return table + b"".join(self.payload)

    def place(self):
        """Write everything to memory and its addresses to the engine."""
        memory, write = self.engine._memory, self.engine.write
        for address, content in ((PROGRAM, self.program()), (IMAGES, b"".join(self.images))):
            memory[address : address + len(content)] = np.frombuffer(content, np.uint8)
        memory[OUTPUTS : OUTPUTS + self.output_bytes + 64] = 0xEE
        for register, address in (
            (Register.DESCRIPTORS_LOW, PROGRAM),
            (Register.IMAGE_LOW, IMAGES),
            (Register.OUTPUT_LOW, OUTPUTS),
        ):
            write(register, address & 0xFFFF_FFFF)
            write(register + 4, address >> 32)
        write(Register.COUNT, len(self.descriptors))

    def start(self):
        """Start the engine."""
        self.engine.write(Register.CONTROL, START | IRQ)

    def results(self):
        """The outputs of the engine, each int32 [channels, height, width]."""
        found = []
        for offset, height, width, pixel_stride, channels, line_stride in self.outputs:
            size = 16 * line_stride * height
            memory = self.engine._memory[OUTPUTS + offset : OUTPUTS + offset + size]
            pixels = memory.view("<i4").reshape(height, width, 4 * pixel_stride)
            found.append(pixels[:, :, :channels].transpose(2, 0, 1).copy())
        rest = self.engine._memory[OUTPUTS + self.output_bytes :][:64]
        assert (rest == 0xEE).all(), "written beyond the outputs"
        return found

    def run(self, limit=5_000_000):
        """Run the descriptors to their end; returns the results."""
        self.place()
        self.start()
        assert self.engine.run_until_irq(limit), "the engine does not finish"
        status = self.engine.read(Register.STATUS)
        assert status == 1 << layout.STATUS_FIELDS["done"].low, hex(status)
        self.engine.write(Register.STATUS, status)
        assert self.engine.violations() == ""
        return self.results()


def copy_of(weight, stored=True):
    """A 1 x 1 convolution whose result is its source."""
    ones = np.full(len(weight), UNIT, np.int32)
    return Convolution(
        name="copy",
        source="source",
        target="target",
        weight=weight,
        bias=np.zeros(len(weight), np.int32),
        stride=1,
        pads=(0, 0, 0, 0),
        outside=0,
        multiplier=ones,
        shift=16,
        fraction=0,
        activation="none",
        store=Store(UNIT, 19) if stored else None,
    )
