"""What an accelerator counts while it runs a frame, and what the compiler expected."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class EngineCounters:
    """The engine's own performance counters of one inference.

    Attributes:
        cycles: clock cycles from start to end.
        clock_mhz: the engine's clock; for a simulation, the clock that the design is meant for.
        simulated: True if a simulation counted, in which no real time passes.
        stalls: cycles in which the multipliers waited, by cause.
        bytes_read, bytes_written: traffic to external memory.
    """

    cycles: int
    clock_mhz: float
    simulated: bool
    stalls: tuple[tuple[str, int], ...]
    bytes_read: int
    bytes_written: int

    @property
    def latency_ms(self) -> float:
        """Duration of the cycles at this clock."""
        return self.cycles / self.clock_mhz / 1e3


class LayerEstimate(NamedTuple):
    """The expected cost of a layer, or of a part of a layer that runs by itself.

    Attributes:
        name: name of the layer.
        mode: how the engine runs it.
        channels: input and output channels, `64 -> 32`.
        size: size of the result, `52x32`.
        kernel: size and stride of the kernel; `3x3/2` has stride 2.
        macs: multiplications that the network needs here.
        cycles: clock cycles.
        bytes_read, bytes_written: traffic to external memory.
        utilisation: share of all multiplier cycles that is spent on `macs`.
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
