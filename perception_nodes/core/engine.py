"""What an accelerator counts while it runs a frame."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineCall:
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
