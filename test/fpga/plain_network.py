"""Random integers as a network of few layers: those of 3 x 3, ReLU, a pyramid."""

import numpy as np

from perception_nodes.core.integer import Concat, Convolution, Network, Store, Upsample

SHAPE = {"widths": (32, 64, 128, 192), "depths": (1, 4, 4, 2), "neck": 64, "head": 64}
"""One that fills 32 lanes."""
STEM_KERNEL, STEM_STRIDE = 6, 4
OUTPUTS = {"box": 64, "class": 8}


class PlainNetwork:
    """Collects the layers; `network` is what they make."""

    def __init__(self, width, height, shape=SHAPE, seed=0):
        self.rng = np.random.default_rng(seed)
        self.layers, self.fractions = [], {}
        self.channels = {"image": 3}
        x = self.block("stem", "image", shape["widths"][0], STEM_KERNEL, STEM_STRIDE)
        maps = []
        for stage, (out, depth) in enumerate(zip(shape["widths"], shape["depths"], strict=True)):
            if stage:
                x = self.block(f"stage{stage}.down", x, out, 3, 2)
            for number in range(depth):
                x = self.block(f"stage{stage}.{number}", x, out)
            maps.append(x)
        neck, above = [], ""
        for level in (2, 1, 0):
            x = maps[1 + level]
            if above:
                x = self.joined(level, x, above)
            x = self.block(f"join{level}", x, shape["neck"], 1)
            above = self.block(f"smooth{level}", x, shape["neck"])
            neck.insert(0, above)
        for kind, channels in OUTPUTS.items():
            for level, x in enumerate(neck):
                inner = self.block(f"{kind}{level}.0", x, shape["head"])
                self.convolution(f"{kind}_{8 << level}", inner, channels, 1, activation="none")
        steps = dict.fromkeys(self.fractions, 1.0)
        self.network = Network("image", width, height, tuple(self.layers), self.fractions, steps)

    def joined(self, level, own, above):
        up, both = f"up{level}", f"both{level}"
        self.layers += [Upsample(above, up), Concat((own, up), both)]
        self.channels[both] = self.channels[own] + self.channels[above]
        return both

    def block(self, target, source, out, kernel=3, stride=1):
        self.convolution(target, source, out, kernel, stride, "relu", Store(80_000, 25))
        return target

    def convolution(self, target, source, out, kernel, stride=1, activation="relu", store=None):
        shape = (out, self.channels[source], kernel, kernel)
        weight = self.rng.integers(-127, 128, shape).astype(np.int16)
        # A sum is about 73 x 73 x the root of its number of terms: `fixed` becomes some 2^13, of
        # which the store makes codes that use their range.
        shift = 17 + 12 + round(np.log2(np.sqrt(weight[0].size))) - 13
        pad = max(kernel - stride + 1, kernel % 2) // 2
        self.layers.append(
            Convolution(
                name=f"{target}/Conv",
                source=source,
                target=target,
                weight=weight,
                bias=self.rng.integers(-(1 << 12), 1 << 12, out).astype(np.int32),
                stride=stride,
                pads=(pad, pad, pad, pad),
                outside=-128 if source == "image" else 0,
                multiplier=self.rng.integers(1 << 16, 1 << 17, out).astype(np.int32),
                shift=shift,
                fraction=10,
                activation=activation,
                store=store,
            )
        )
        self.channels[target] = out
        if store is None:
            self.fractions[target] = 10
