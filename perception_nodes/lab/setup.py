"""What the benches of the graph have in common: the camera, the model and the deadline."""

from dataclasses import asdict, dataclass
from typing import Any

from perception_nodes.system.processes import machine

WARM_UP_FRAMES = 10
"""First frames of a round, which are not measured: caches fill and threads start."""

NO_DETECTIONS = "none"
"""Shown for a percentile that falls on frames without detections."""
WITHOUT_DETECTIONS = (
    f"{NO_DETECTIONS}: it falls on frames without detections, which count as the slowest"
)


@dataclass(frozen=True)
class BenchSetup:
    """A camera, and the model that detects in its frames.

    Attributes:
        frames: number of frames to measure.
        size: of the frames, WIDTHxHEIGHT.
        rate_hz: frames a second.
        model, backend, threads, deadline_ms: as the graph's parameters.
    """

    frames: int
    size: str
    rate_hz: float
    model: str
    backend: str
    threads: int
    deadline_ms: float

    def drive(self, frames: int) -> str:
        """So many frames, as the parameter `bag` of a player."""
        return f"synthetic:{self.size}@{self.rate_hz:g}*{frames}"

    def inference(self) -> dict[str, Any]:
        """The parameters of a node that infers."""
        return {"model": self.model, "backend": self.backend, "threads": self.threads}

    def facts(self) -> dict[str, Any]:
        """The setup and the machine, for a JSON result."""
        return {"machine": machine(), **asdict(self)}
