"""What an accelerator counts while it runs a frame, and what it was expected to."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class EngineCounters:
    """One inference, as the engine itself counted it.

    Attributes:
        cycles: from start to end.
        clock_mhz: the clock that it runs at, or is meant to.
        simulated: counted by a simulation of the engine; no clock has run.
        stalls: cycles in which multipliers waited, by cause.
        bytes_read, bytes_written: of external memory.
    """

    cycles: int
    clock_mhz: float
    simulated: bool
    stalls: tuple[tuple[str, int], ...]
    bytes_read: int
    bytes_written: int

    @property
    def latency_ms(self) -> float:
        """What the cycles take at the clock."""
        return self.cycles / self.clock_mhz / 1e3


class LayerEstimate(NamedTuple):
    """What a layer, or a part of one that is run by itself, is expected to take.

    Attributes:
        name: of the layer.
        mode: how the engine runs it.
        channels: input and output channels, `64 -> 32`.
        size: of the result, `52x32`.
        kernel: `3x3/2` is one of stride 2.
        macs: multiplications of the network that it does.
        cycles: that it takes.
        bytes_read, bytes_written: of external memory.
        utilisation: share of the multipliers' cycles that do those multiplications.
    """

    name: str
    mode: str
    channels: str
    size: str
    kernel: str
    macs: int
    cycles: int
    bytes_read: int
    bytes_written: int
    utilisation: float
