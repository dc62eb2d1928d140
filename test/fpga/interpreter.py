"""The engine as docs/fpga.md defines it, in plain NumPy: descriptors and memory in, memory out.

It is an oracle: it shares only the layout's constants with the compiler, and does not see the
network. Its rounding is that of core/integer.py, which has an oracle of its own. A descriptor fails
if the engine would refuse it, or if it reads what is not written yet.
"""

from dataclasses import dataclass, field

import numpy as np

from perception_nodes.core.integer import activate, round_shift, saturate
from perception_nodes.fpga import layout

ACTIVATIONS = {0: "none", 1: "relu", 2: "hardswish"}


def fields_of(table, words):
    """Fields of a descriptor or record; fields of several words are arrays."""
    found = {}
    for name, (word, low, bits, count) in table.items():
        values = (words[word : word + count].astype(np.int64) >> low) & ((1 << bits) - 1)
        found[name] = values if count > 1 else int(values[0])
    return found


@dataclass
class Interpreter:
    """An engine with `rows` of activation memory.

    Attributes:
        memory: activations, int8 [row, bank, channel].
        written: for each row and bank the number of the descriptor that wrote it, -1 for none.
        ran: fields of the descriptors, in order.
        sent_bytes: how much was written to output memory.
    """

    rows: int
    blocks: int
    tile: int
    memory: np.ndarray = field(init=False)
    written: np.ndarray = field(init=False)
    ran: list = field(default_factory=list)
    sent_bytes: int = 0

    def __post_init__(self):
        rng = np.random.default_rng(5)  # what was there before must not matter
        shape = (self.rows, layout.BANKS, layout.LANES)
        self.memory = rng.integers(-128, 128, shape).astype(np.int8)
        self.written = np.full(shape[:2], -1)

    def run(self, content, count, image, output_bytes, after=lambda number: None):
        """Run `count` descriptors at the begin of `content`; return the output memory, uint8.

        `after` is called with the number of each that has run.
        """
        output = np.zeros(output_bytes, np.uint8)
        content = np.frombuffer(content, np.uint8)
        for number in range(count):
            raw = content[number * layout.DESCRIPTOR_BYTES :][: layout.DESCRIPTOR_BYTES]
            words = raw.view("<u4")
            opcode = int(words[0]) & 0xFF
            assert int(words[0]) >> 8 & 0xFF == layout.VERSION
            if opcode == layout.Opcode.LOAD:
                self.load(number, fields_of(layout.LOAD_FIELDS, words), image)
            else:
                assert opcode == layout.Opcode.CONVOLVE
                self.convolve(number, fields_of(layout.CONVOLVE_FIELDS, words), content, output)
            after(number)
        return output

    def at(self, base, pixel_stride, line_stride, groups, height, width):
        """Rows [y, x, group] and banks [x] of a tensor."""
        y, x, group = np.ogrid[:height, :width, :groups]
        rows = base + y * line_stride + x // layout.BANKS * pixel_stride + group
        assert rows.max() < self.rows, "a tensor reaches outside of the activation memory"
        return rows, np.broadcast_to(x % layout.BANKS, rows.shape)

    def read(self, number, wait, *where):
        """A tensor, int64 [y, x, channel]."""
        at = self.at(*where)
        by = self.written[at]
        assert (by >= 0).all(), "reads what nothing has written"
        assert wait or by.max() < number - 1 or self.ran[number - 1]["opcode"] == 1, "needs wait"
        return self.memory[at].astype(np.int64).reshape(*at[0].shape[:2], -1)

    def write(self, number, codes, base, pixel_stride, line_stride):
        """Store codes [y, x, channel]."""
        height, width, channels = codes.shape
        at = self.at(base, pixel_stride, line_stride, channels // layout.LANES, height, width)
        self.memory[at] = codes.reshape(*at[0].shape, layout.LANES)
        self.written[at] = number

    def load(self, number, d, image):
        codes = (image.astype(np.int16) - 128).astype(np.int8)
        height, width = codes.shape[:2]
        assert (d["width"], d["height"], d["source_offset"]) == (width, height, 0)
        if d["fold"]:
            assert width % 8 == 0 and height % 2 == 0
            lanes = np.zeros((height // 2, width // 2, layout.LANES), np.int8)
            for dy, dx, c in np.ndindex(2, 2, 3):
                lanes[:, :, 6 * dy + 3 * dx + c] = codes[dy::2, dx::2, c]
        else:
            assert width % 4 == 0
            lanes = np.zeros((height, width, layout.LANES), np.int8)
            lanes[:, :, :3] = codes
        where = (d[f"target_{name}"] for name in ("base", "pixel_stride", "line_stride"))
        self.write(number, lanes, *where)
        self.ran.append(d)

    def source(self, number, d, segment):
        factor = 2 if d[f"source{segment}_upsample"] else 1
        height, width = d["source_height"] // factor, d["source_width"] // factor
        assert (height * factor, width * factor) == (d["source_height"], d["source_width"])
        names = ("base", "pixel_stride", "line_stride", "groups")
        where = [d[f"source{segment}_{name}"] for name in names]
        assert 1 <= where[1] <= 511
        codes = self.read(number, d["wait"], *where, height, width)
        return codes.repeat(factor, axis=0).repeat(factor, axis=1)

    def check_order(self, d, passes):
        """A pixel's result must not be where this or a later pixel still reads, in raster order."""
        height, width = d["height"], d["width"]
        pixel = np.arange(height * width).reshape(height, width, 1)
        names = ("base", "pixel_stride", "line_stride")
        target = [d[f"target_{name}"] for name in names]
        written = self.at(*target, d["groups"], height, width)
        last = np.full(self.written.shape, -1)
        for segment in range(2 if d["source1_groups"] else 1):
            factor = 2 if d[f"source{segment}_upsample"] else 1
            size = d["source_height"] // factor, d["source_width"] // factor
            where = [d[f"source{segment}_{name}"] for name in (*names, "groups")]
            rows, banks = self.at(*where, *size)
            if written[0].min() > rows.max() or rows.min() > written[0].max():
                continue
            for ky, kx in np.ndindex(d["kernel_height"], d["kernel_width"]):
                y = (np.arange(height) * d["stride"] + ky - d["pad_top"]) // factor
                x = (np.arange(width) * d["stride"] + kx - d["pad_left"]) // factor
                y_in, x_in = (y >= 0) & (y < size[0]), (x >= 0) & (x < size[1])
                at = np.ix_(y[y_in], x[x_in])
                reader = np.broadcast_to(pixel[np.ix_(y_in, x_in)], rows[at].shape)
                np.maximum.at(last, (rows[at], banks[at]), reader)
            if passes > 1:  # the next pass reads all again
                last[last >= 0] = height * width
        assert (last[written] <= pixel).all(), "overwrites what is still to be read"

    def convolve(self, number, d, content, output):
        self.ran.append(d)
        height, width, stride = d["height"], d["width"], d["stride"]
        kernel = d["kernel_height"], d["kernel_width"]
        assert 1 <= min(height, width, *kernel, stride, d["groups"]) and max(kernel) <= 15
        assert layout.SMALLEST_TILE <= d["tile"] <= self.tile and stride <= 2
        at_once = layout.LANES if d["narrow"] else 2 * layout.LANES
        channels = layout.LANES * d["groups"]
        assert channels % at_once == 0
        codes = self.source(number, d, 0)
        if not d["external"]:
            self.check_order(d, channels // at_once)
        if d["source1_groups"]:
            codes = np.concatenate([codes, self.source(number, d, 1)], axis=2)
        # The picture, padded with `outside` so that every position of the kernel is covered.
        outside = int(np.uint8(d["outside"]).view(np.int8))
        rows, columns = (
            (size - 1) * stride + k for size, k in zip((height, width), kernel, strict=True)
        )
        top, left = d["pad_top"], d["pad_left"]
        size = max(rows, top + len(codes)), max(columns, left + codes.shape[1])
        picture = np.full((*size, codes.shape[2]), outside)
        picture[top : top + len(codes), left : left + codes.shape[1]] = codes
        steps = codes.shape[2] // layout.LANES
        assert d["weights_offset"] % 16 == 0 and d["parameters_offset"] % 16 == 0
        size = channels * kernel[0] * kernel[1] * codes.shape[2]
        weight = content[d["weights_offset"] :][:size].view(np.int8)
        shape = (channels // at_once, *kernel, steps, at_once, layout.LANES)
        weight = weight.reshape(shape).astype(np.float64)
        records = [self.record(content, d, group) for group in range(d["groups"])]
        sums = np.zeros((height, width, channels))
        for og, ky, kx, step in np.ndindex(shape[:4]):
            lanes = picture[
                ky : ky + (height - 1) * stride + 1 : stride,
                kx : kx + (width - 1) * stride + 1 : stride,
                step * layout.LANES : (step + 1) * layout.LANES,
            ]
            into = sums[:, :, og * at_once : (og + 1) * at_once]
            into += lanes @ weight[og, ky, kx, step].T
        for group, record in enumerate(records):
            part = slice(group * layout.LANES, (group + 1) * layout.LANES)
            self.drain(number, d, record, group, sums[:, :, part].astype(np.int64), output)

    @staticmethod
    def record(content, d, group):
        begin = d["parameters_offset"] + group * layout.PARAMETER_BYTES
        words = content[begin : begin + layout.PARAMETER_BYTES].view("<u4")
        return fields_of(layout.PARAMETER_FIELDS, words)

    def drain(self, number, d, p, group, sums, output):
        acc = sums + p["bias"].astype(np.uint32).view(np.int32)
        assert np.abs(acc).max() < 2**31
        fixed = saturate(round_shift(acc * p["multiplier"], p["shift"]), 18)
        if d["external"]:
            beats = d["beats"]
            assert beats == 4 or (beats in (1, 2) and d["groups"] == 1)
            assert d["output_offset"] % 64 == 0
            y, x, c = np.ogrid[: d["height"], : d["width"], : 4 * beats]
            word = 4 * (y * d["target_line_stride"] + x * d["target_pixel_stride"])
            word = word + 4 * group * beats + c + d["output_offset"] // 4
            output.view("<i4")[word] = fixed[:, :, : 4 * beats]
            self.sent_bytes += 4 * word.size
            return
        total = activate(fixed, ACTIVATIONS[p["activation"]], p["fraction"])
        if d["residual"]:
            names = ("base", "pixel_stride", "line_stride")
            where = [d[f"residual_{name}"] for name in names]
            where[0] += group
            codes = self.read(number, d["wait"], *where, 1, d["height"], d["width"])
            total = total + codes * p["residual_multiplier"]
        codes = saturate(round_shift(total * p["store_multiplier"], p["store_shift"]), 8)
        names = ("base", "pixel_stride", "line_stride")
        where = [d[f"target_{name}"] for name in names]
        where[0] += group
        self.write(number, codes.astype(np.int8), *where)
