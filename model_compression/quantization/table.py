"""The table of ranges: the one place that says how a detector is quantized.

Both dialects of a model, and the integer network that every device computes, follow from its float
weights and this table. It lies in ``calibration/int8/<model>.yaml``.
"""

from pathlib import Path
from typing import Annotated, Any

import onnx
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_compression.errors import CompressionError
from model_compression.quantization.graph import Layout, read_layout
from model_compression.quantization.weights import fingerprint
from perception_nodes.core.yaml_text import parse_yaml
from perception_nodes.system.files import write_whole

SCHEME = (
    "symmetric: int8 activations of step amax/127, one scale a tensor (uint8 with zero point 128 "
    "in the u8 file); int8 weights, symmetric, one scale an output channel; float outputs"
)
Amax = Annotated[float, Field(gt=0, lt=1e6)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Part(BaseModel):
    """Base of the table's parts: unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(Part):
    """Tensors that are stored with one scale.

    Attributes:
        amax: the largest magnitude that can be stored; a code's step is amax / 127.
        tensors: what shares it: one tensor, or all that meet in a Concat.
    """

    amax: Amax
    tensors: tuple[str, ...] = Field(min_length=1)


class CalibrationFrame(Part):
    """A frame that ranges were measured on.

    Attributes:
        source: where it comes from, in the user's words.
        sha256: of its bytes as the network gets them.
    """

    source: str
    sha256: Sha256


WEIGHT_BITS = 7
"""Of a weight; with 8, x86 without VNNI saturates silently."""


class RangeTable(Part):
    """How a detector is quantized.

    Attributes:
        model: the model's name.
        weights_sha256: which weights it was measured with (`weights.fingerprint`).
        weight_bits: of a weight.
        float_convolutions: the convolutions whose weights stay float.
        method: how amax was chosen from what was seen.
        ranges: of the stored tensors.
        outputs: the largest magnitude seen at each output; a 127th of it is the step (LSB) in
            which differences between backends are told. Outputs themselves are not rounded.
        frames: what it was measured on.
    """

    model: str
    weights_sha256: Sha256
    weight_bits: int = Field(WEIGHT_BITS, ge=4, le=8)
    float_convolutions: tuple[str, ...] = ()
    method: str
    ranges: tuple[Range, ...]
    outputs: dict[str, Amax]
    frames: tuple[CalibrationFrame, ...]

    @property
    def amax(self) -> dict[str, float]:
        """The range of every stored tensor."""
        return {name: shared.amax for shared in self.ranges for name in shared.tensors}

    def facts(self) -> dict[str, Any]:
        """What `model.yaml` says of the quantization."""
        return {
            "scheme": SCHEME,
            "weight_bits": self.weight_bits,
            "method": self.method,
            "calibration_frames": len(self.frames),
            "float_convolutions": list(self.float_convolutions),
        }

    def check(self, model: onnx.ModelProto) -> Layout:
        """Compare the table with the float graph it is to be used on.

        Returns:
            The graph's layout.

        Raises:
            CompressionError: it is another model's table, or not a whole one.
        """
        layout = read_layout(model)
        named = [name for shared in self.ranges for name in shared.tensors]
        _same_names("range of", named, layout.stored)
        _same_names("output", list(self.outputs), layout.outputs)
        found = {frozenset(shared.tensors) for shared in self.ranges}
        for group in layout.groups:
            if frozenset(group) not in found:
                raise CompressionError(
                    f"the table of ranges gives {group[0]!r} other company than the model, where "
                    f"{', '.join(group)} meet in one Concat and need one amax; calibrate again"
                )
        known = {block.name for block in layout.blocks}
        for name in self.float_convolutions:
            if name not in known:
                raise CompressionError(
                    f"the table of ranges keeps {name!r} float, which is no convolution of the "
                    "model; correct the name, or calibrate again"
                )
        weights = fingerprint(model, layout, self.weight_bits)
        if weights != self.weights_sha256:
            raise CompressionError(
                f"the table of ranges of {self.model!r} was measured with weights "
                f"{self.weights_sha256[:12]}…, the model has {weights[:12]}…; calibrate again"
            )
        return layout


def _same_names(what: str, given: list[str], wanted: tuple[str, ...]) -> None:
    for name in given:
        if name not in wanted:
            raise CompressionError(
                f"the table of ranges has a {what} {name!r}, which the model does not have; "
                "correct the name, or calibrate again"
            )
        if given.count(name) > 1:
            raise CompressionError(f"the table of ranges has the {what} {name!r} twice")
    for name in wanted:
        if name not in given:
            raise CompressionError(
                f"the table of ranges lacks the {what} {name!r}; calibrate again"
            )


def read_table(path: Path) -> RangeTable:
    """Read a table.

    Raises:
        CompressionError: the file cannot be read, or a value cannot be.
    """
    try:
        return RangeTable.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the table"
        raise CompressionError(
            f"{path}: {key} is {first['input']!r}: {first['msg']}; correct it, or calibrate again"
        ) from error
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise CompressionError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def write_table(table: RangeTable, path: Path) -> None:
    """Write a table."""
    write_whole(path, yaml.safe_dump(table.model_dump(mode="json"), sort_keys=False, width=100))
