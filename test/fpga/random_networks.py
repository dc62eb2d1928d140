"""Random integer networks: branches, concats, slices, residuals, upsamples, extreme numbers."""

import numpy as np
from hypothesis import strategies as st

from perception_nodes.core.integer import Concat, Convolution, Network, Slice, Store, Upsample

LARGEST = 1200
"""Largest number of pixels of a tensor, so that a network runs in milliseconds."""


class Builder:
    """Draws layers one by one; knows the shape of every tensor."""

    def __init__(self, draw, channels):
        self.draw, self.channels = draw, channels
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.height, self.width = draw(st.integers(2, 14)), 4 * draw(st.integers(1, 5))
        self.shapes = {"image": (3, self.height, self.width)}
        self.layers = []
        self.fractions = {}

    def name(self):
        return f"t{len(self.layers)}"

    def convolution(self, source, output=False, out=None):
        draw, rng = self.draw, self.rng
        channels, height, width = self.shapes[source]
        kernel = draw(st.tuples(*[st.integers(1, min(3, size + 1)) for size in (height, width)]))
        stride = draw(st.integers(1, 2))
        pads = draw(st.tuples(*[st.integers(0, kernel[i % 2] - 1) for i in range(4)]))
        rows = (height + pads[0] + pads[2] - kernel[0]) // stride + 1
        columns = (width + pads[1] + pads[3] - kernel[1]) // stride + 1
        if height + pads[0] + pads[2] < kernel[0] or width + pads[1] + pads[3] < kernel[1]:
            kernel, stride, pads, rows, columns = (1, 1), 1, (0, 0, 0, 0), height, width
        depthwise = out is None and draw(st.booleans())
        out = channels if depthwise else out or draw(self.channels)
        shape = (out, 1 if depthwise else channels, *kernel)
        largest = draw(st.sampled_from([1, 63, 127]))
        weight = rng.integers(-largest, largest + 1, shape)
        if draw(st.booleans()):
            weight = rng.choice([-128, 127], shape)  # as far as sums can go
        # A sum is around the square root of its number of terms. The factors make `fixed` about
        # 2^level and let codes use their range; with others they would saturate or be nearly 0.
        reach = 73 * max(np.abs(weight).mean(), 1) * np.sqrt(weight[0].size)
        level, off = draw(st.integers(8, 17)), draw(st.sampled_from([0, 0, 0, 4, -4]))
        shift = max(17 - level + round(np.log2(reach)) + off, 0)
        multiplier = rng.integers(2**15, 2**17, out)
        store = None
        if not output:
            off = draw(st.sampled_from([0, 0, 0, 3, -3]))
            store = Store(draw(st.integers(2**16, 2**17 - 1)), level + 13 + off)
            same = [n for n, shape in self.shapes.items() if shape == (out, rows, columns)]
            if same and draw(st.booleans()):
                residual = draw(st.sampled_from(same))
                factor = draw(st.integers(0, 2 ** min(level, 13)))
                store = Store(store.multiplier, store.shift, residual, factor)
        target = f"out{len(self.fractions)}" if output else self.name()
        largest = 2 ** draw(st.sampled_from([0, 12, 24]))
        bias = rng.integers(-largest, largest, out)
        self.layers.append(
            Convolution(
                name=f"{target}/Conv",
                source=source,
                target=target,
                weight=weight.astype(np.int16),
                bias=bias.astype(np.int32),
                stride=stride,
                pads=pads,
                outside=-128 if source == "image" else 0,
                multiplier=multiplier.astype(np.int32),
                shift=shift,
                fraction=(fraction := min(level, draw(st.integers(0, 15)))),
                activation=draw(st.sampled_from(["none", "relu", "hardswish"])),
                store=store,
                depthwise=depthwise,
            )
        )
        if output:
            self.fractions[target] = fraction
        else:
            self.shapes[target] = (out, rows, columns)

    def concat(self, source):
        size = self.shapes[source][1:]
        same = [n for n, shape in self.shapes.items() if shape[1:] == size]
        draw = self.draw
        sources = draw(st.lists(st.sampled_from(same), min_size=2, max_size=4))
        if len(same) > 1 and draw(st.booleans()):
            sources = draw(st.permutations(same))[:4]
        channels = sum(self.shapes[name][0] for name in sources)
        if channels <= 300:
            target = self.name()
            self.layers.append(Concat(tuple(sources), target))
            self.shapes[target] = (channels, *size)

    def slice(self, source):
        channels, *size = self.shapes[source]
        if self.draw(st.booleans()) and channels % 2 == 0:  # the split of a C2f block
            cuts = [(0, channels // 2), (channels // 2, channels)]
        else:
            begin = self.draw(st.integers(0, channels - 1))
            cuts = [(begin, self.draw(st.integers(begin + 1, channels)))]
        for begin, end in cuts:
            target = self.name()
            self.layers.append(Slice(source, target, begin, end))
            self.shapes[target] = (end - begin, *size)

    def upsample(self, source):
        channels, height, width = self.shapes[source]
        if 4 * height * width <= LARGEST:
            target = self.name()
            self.layers.append(Upsample(source, target))
            self.shapes[target] = (channels, 2 * height, 2 * width)


KINDS = ("convolution", "convolution", "convolution", "concat", "slice", "upsample")


@st.composite
def networks(draw, channels=None, most=8):
    """A network and an image for it."""
    channels = channels or st.sampled_from([1, 8, 16, 16, 24, 32, 48, 80])
    builder = Builder(draw, channels)
    builder.convolution("image")
    for _ in range(draw(st.integers(0, most))):
        source = draw(st.sampled_from(list(builder.shapes)))
        getattr(builder, draw(st.sampled_from(KINDS)))(source)
    for _ in range(draw(st.integers(1, 2))):
        builder.convolution(draw(st.sampled_from(list(builder.shapes))), output=True)
    steps = dict.fromkeys(builder.fractions, 1.0)
    network = Network(
        "image", builder.width, builder.height, tuple(builder.layers), builder.fractions, steps
    )
    image = builder.rng.integers(0, 256, (builder.height, builder.width, 3)).astype(np.uint8)
    return network, image
