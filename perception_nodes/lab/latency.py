"""`bench latency`: the whole graph, against bare inference and a usual node of today."""

import json
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from perception_nodes.backends.pace import apart_ms
from perception_nodes.core.statistics import MEDIAN_AND_P99, latency_percentiles, summarize
from perception_nodes.graph.config import DetectorSettings
from perception_nodes.graph.node_spec import awake_processors
from perception_nodes.graph.supervisor import GraphFailure
from perception_nodes.lab import bench
from perception_nodes.lab.graphs import CAMERA, MEASURED
from perception_nodes.lab.run import Run, execute
from perception_nodes.networks.model import load_model
from perception_nodes.report.account import account
from perception_nodes.report.figures import figure_table
from perception_nodes.report.page import shown
from perception_nodes.system.awake import kept_awake
from perception_nodes.system.children import end, start
from perception_nodes.system.environment import cache_folder, ros_environment, share_folder


@dataclass
class LatencyBench:
    """One measurement; see `perception bench latency --help`."""

    setup: bench.BenchSetup
    path: str
    rounds: int
    baseline_weights: str | None

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Measure.

        Args:
            say: receives lines of progress.

        Returns:
            The JSON result.

        Raises:
            SettingsError, ModelError: unusable options.
            GraphFailure: a process of the graph ended unexpectedly.
            KeyboardInterrupt: interrupted by the user.
        """
        load_model(self.setup.model)
        MEASURED.nodes({"bag": self.setup.drive(1), **self.setup.inference()})
        frames = -(-self.setup.frames // self.rounds) + bench.WARM_UP_FRAMES
        ours, bare_ms, baseline_ms = Run(), list[float](), list[float]()
        with tempfile.TemporaryDirectory(prefix="perception_bench_") as name:
            folder = Path(name)
            for number in range(1, self.rounds + 1):
                begin = f"round {number} of {self.rounds}: "
                say(f"{begin}pipeline, {frames} frames")
                self._pipeline_round(ours, folder, frames)
                say(f"{begin}bare inference")
                bare_ms += self._bare_round(frames)
                if self.baseline_weights is not None:
                    say(f"{begin}baseline")
                    baseline_ms += self._baseline_round(folder, frames)
        return self.result(ours, bare_ms, baseline_ms)

    def _pipeline_round(self, run: Run, folder: Path, frames: int) -> None:
        values = {
            "bag": self.setup.drive(frames),
            # The receiver on the shm path takes detections from shared memory.
            "listeners": 1 if self.path == "dds" else 0,
            **self.setup.inference(),
            "deadline_ms": self.setup.deadline_ms,
            "source": self.path,
        }
        bench.play(run, MEASURED, values, folder)

    def _bare_round(self, frames: int) -> list[float]:
        """A round of the backend alone, where processors sleep as little as beside the graph."""
        inference, rate_hz = self.setup.inference(), self.setup.rate_hz
        awake = awake_processors(DetectorSettings(**inference))
        with kept_awake(awake) if awake else nullcontext():
            timed, cache_dir = frames - bench.WARM_UP_FRAMES, str(cache_folder())
            return apart_ms(**inference, frames=timed, rate_hz=rate_hz, cache_dir=cache_dir)

    def _baseline_round(self, folder: Path, frames: int) -> list[float]:
        script = share_folder() / "benchmarks/ultralytics_baseline.py"
        latencies = folder / "baseline.json"
        latencies.unlink(missing_ok=True)
        size = load_model(self.setup.model).input
        place = ["--width", str(size.width), "--height", str(size.height), "--out", str(latencies)]
        command = [sys.executable, str(script), "--weights", str(self.baseline_weights), *place]
        process = start(command, ros_environment(images=True))
        try:
            values = {"bag": self.setup.drive(frames), "listeners": 0, "accounted": False}
            execute(Run(), CAMERA.nodes(values))
        finally:
            end(process, number=signal.SIGINT)
        if not latencies.is_file():
            raise GraphFailure("the baseline did not run; `make baseline` installs what it needs")
        values_ms: list[float] = json.loads(latencies.read_text())
        return values_ms[bench.WARM_UP_FRAMES :]

    def result(self, run: Run, bare_ms: list[float], baseline_ms: list[float]) -> dict[str, Any]:
        """The JSON result.

        Args:
            run: all rounds of the pipeline.
            bare_ms: durations of bare inference.
            baseline_ms: latencies of the baseline.
        """
        found = account(run)
        latency_ms = found.latency_ms()
        bare = latency_percentiles(bare_ms, MEDIAN_AND_P99)
        told = summarize(frame.report for frame in found.frames if frame.report is not None)
        result: dict[str, Any] = {
            **self.setup.facts(),
            "path": self.path,
            "frames": len(found.frames),
            "rounds": self.rounds,
            "warm_up_frames_per_round": bench.WARM_UP_FRAMES,
            "latency_ms": latency_ms,
            "stages_ms": told["stages_ms"],
            "status": dict(found.statuses),
            "miss_rate": found.miss_rate,
            "frames_sent": len(run.sent or ()),
            "lost_in_transport": len(run.sent or ()) - len(run.reports),
            "bare_inference_ms": bare,
            "overhead_ms": {"p50": difference(latency_ms["p50"], bare["p50"])},
            "copies_per_frame": told["copies_per_frame"],
        }
        if self.baseline_weights is not None:
            baseline = latency_percentiles(baseline_ms)
            result["baseline"] = {"latency_ms": baseline, "frames": len(baseline_ms)}
            if baseline["p50"] and latency_ms["p50"]:
                result["speedup_p50"] = baseline["p50"] / latency_ms["p50"]
        return result


def difference(a: float | None, b: float | None) -> float | None:
    """The difference a - b; None if one is missing."""
    return None if a is None or b is None else a - b


def result_table(result: dict[str, Any]) -> Table:
    """The result as a table for the terminal."""
    table = figure_table(
        [""],
        ["p50 ms", "p99 ms", "p99.9 ms", "max ms"],
        f"{result['size']} at {result['rate_hz']:g} Hz over {result['path']}, "
        f"{result['frames']} frames, {escape(result['model'])} on {result['backend']}",
    )
    rows = {"[bold]capture to detections": result["latency_ms"]}
    rows |= {f"  {stage}": values for stage, values in result["stages_ms"].items()}
    rows["bare inference, same pace"] = result["bare_inference_ms"]
    rows["overhead"] = result["overhead_ms"]
    if "baseline" in result:
        rows["baseline"] = result["baseline"]["latency_ms"]
    for name, values in rows.items():
        table.add_row(name, *bench.latency_cells(values, ("p50", "p99", "p99_9", "max")))
    if "baseline" in result:
        table.add_row("speed-up over the baseline", f"{result.get('speedup_p50', 0):.1f} x")
    table.add_section()
    statuses = ", ".join(f"{name} {count}" for name, count in result["status"].items())
    table.caption = (
        f"{statuses}; missed {shown(result['miss_rate'], '{:.2%}')}; "
        f"lost in transport {result['lost_in_transport']}; "
        f"copies of a frame by our processes {result['copies_per_frame']} (in shared memory none, "
        "over DDS the middleware's)\n"
        f"{bench.WITHOUT_DETECTIONS}"
    )
    return table
