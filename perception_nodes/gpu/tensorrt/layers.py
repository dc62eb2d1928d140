"""The types in which an engine computes its convolutions, read from the log of its builder.

With detailed profiling, a builder lists the layers of the engine in its verbose log, one per line:

    Name: /model.0/conv/Conv_myl0_2, LayerType: correlation, Inputs: [ { Name: ..., Datatype: Int8,
    ... }], Constants: [ { ..., Datatype: Int8, ... }, ...], Outputs: [...], TacticName: ...

TensorRT-RTX calls a convolution `correlation`. TensorRT calls it `CaskConvolution` or writes
`ParameterType: Convolution`, and states types within a text such as `Format/Datatype: Thirty-two
wide channel vectorized row major Int8 format`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

LAYER = re.compile(r"^Name: (?P<name>\S.*?), LayerType: (?P<type>\w+), (?P<rest>Inputs: .*)$")
CONVOLUTION = re.compile(r"LayerType: (correlation|\w*Convolution)\b|ParameterType: Convolution\b")
GROUP = re.compile(r"\b(Inputs|Constants|Outputs): \[")
DATATYPE = re.compile(r"Datatype: ([^,}\]]*)")


@dataclass(frozen=True)
class ConvolutionTypes:
    """Types of one convolution of an engine.

    Attributes:
        name: name of the layer.
        inputs: types of its activations, lower case.
        constants: types of its weights, scales and biases, lower case.
    """

    name: str
    inputs: tuple[str, ...]
    constants: tuple[str, ...]

    @property
    def in_int8(self) -> bool:
        """Whether activations are 8-bit and, if the log states their type, weights too."""
        known = [self.inputs, self.constants] if self.constants else [self.inputs]
        return all("int8" in types[0] for types in known if types) and bool(self.inputs)


def convolutions(log: Iterable[str]) -> list[ConvolutionTypes]:
    """The convolutions of an engine, each once; empty if the log lists no layers.

    Args:
        log: messages of the builder, which may have several lines each.
    """
    found = {}
    for line in (line for message in log for line in message.splitlines()):
        layer = LAYER.match(line)
        if layer is None or not CONVOLUTION.search(line):
            continue
        parts = GROUP.split(layer["rest"])
        types = {
            group: tuple(one.strip().lower() for one in DATATYPE.findall(tensors))
            for group, tensors in zip(parts[1::2], parts[2::2], strict=True)
        }
        name = layer["name"]
        found[name] = ConvolutionTypes(name, types.get("Inputs", ()), types.get("Constants", ()))
    return list(found.values())
