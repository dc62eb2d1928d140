"""What the benches of the graph have in common: camera, model and deadline, and a played round."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perception_nodes.graph.graph import Graph
from perception_nodes.lab.run import Beside, Run, execute
from perception_nodes.report.page import shown
from perception_nodes.system.processes import machine

WARM_UP_FRAMES = 10
"""First frames of a round, which are not measured: caches fill and threads start."""
NO_DETECTIONS = "none"
"""Shown for a percentile that falls on frames without detections."""
WITHOUT_DETECTIONS = f"{NO_DETECTIONS}: it falls on frames without detections, counted as slowest"


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
        """A drive with this number of frames, as the parameter `bag` of a player."""
        return f"synthetic:{self.size}@{self.rate_hz:g}*{frames}"

    def inference(self) -> dict[str, Any]:
        """The parameters of a node that infers."""
        return {"model": self.model, "backend": self.backend, "threads": self.threads}

    def facts(self) -> dict[str, Any]:
        """The setup and the machine, for a JSON result."""
        return {"machine": machine(), **asdict(self)}


def play(
    run: Run,
    graph: Graph,
    values: Mapping[str, Any],
    folder: Path,
    log: Path | None = None,
    beside: Sequence[Beside] = (),
) -> None:
    """Play a drive to a graph with a receiver, and add what was sent and received to a run.

    Args:
        run: of this round, or of several.
        graph: `MEASURED`, or another one with a receiver.
        values: parameters of the graph.
        folder: for temporary files.
        log: as for `execute`.
        beside: as for `execute`.
    """
    sent, recording = folder / "sent.json", folder / "received.mcap"
    files = {"sent_file": str(sent), "recording": str(recording)}
    execute(run, graph.nodes({**values, **files}), log, beside)
    run.read_sent(sent, WARM_UP_FRAMES)
    run.read(recording)


def latency_cells(
    latency_ms: Mapping[str, float | None], ranks: Sequence[str], form: str = "{:.2f}"
) -> list[str]:
    """Percentiles as cells of a table; a percentile that was not taken is empty."""
    return [shown(latency_ms[k], form, NO_DETECTIONS) if k in latency_ms else "" for k in ranks]
