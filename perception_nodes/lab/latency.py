"""Latency of the whole graph, against bare inference and a usual node of today."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from perception_nodes.core.budget import STAGES
from perception_nodes.core.frame import IN_TIME, FrameStatus, stage_durations_ms
from perception_nodes.core.statistics import MEDIAN_AND_P99, latency_percentiles
from perception_nodes.graph.graph import Graph
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.supervisor import GraphFailure, Supervisor
from perception_nodes.lab.graphs import BARE_INFERENCE, BESIDE_RECORDER, CAMERA, MEASURED
from perception_nodes.lab.setup import (
    NO_DETECTIONS,
    WARM_UP_FRAMES,
    WITHOUT_DETECTIONS,
    BenchSetup,
)
from perception_nodes.networks.model import load_model
from perception_nodes.report.figures import figure_table
from perception_nodes.report.page import shown
from perception_nodes.system.environment import ros_environment, share_folder

BASELINE_TIMEOUT_S = 30
NO_PAGE: Mapping[str, Any] = {}


@dataclass
class _Samples:
    latencies_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=lambda: {s: [] for s in STAGES})
    statuses: Counter[str] = field(default_factory=Counter)
    copies: list[int] = field(default_factory=list)
    sent: int = 0
    arrived: int = 0
    measured: int = 0
    in_time: int = 0
    images: int = 0
    updates: int = 0

    def add(self, stamps: Sequence[int], content: Mapping[str, Any]) -> None:
        """Add a round: the stamps of the frames sent, and what the receiver got."""
        measured = set(stamps[WARM_UP_FRAMES:])
        self.sent += len(stamps)
        self.arrived += len(content["reports"])
        self.measured += len(measured)
        arrived = {stamp: at_ns for stamp, at_ns in content["arrivals"] if stamp in measured}
        self.latencies_ms += [(at_ns - stamp) / 1e6 for stamp, at_ns in arrived.items()]
        in_time = set()
        for entry in content["reports"]:
            if entry["stamp_ns"] not in measured:
                continue
            report = SimpleNamespace(**entry)
            self.statuses[report.status] += 1
            self.copies.append(report.copies)
            if FrameStatus[report.status] in IN_TIME:
                in_time.add(report.stamp_ns)
            for stage, duration_ms in stage_durations_ms(report).items():
                self.stages_ms[stage].append(duration_ms)
        # What is reported and did not come is of no use to a planner.
        self.in_time += len(in_time & arrived.keys())

    def latency_ms(self) -> dict[str, float | None]:
        """Percentiles over all measured frames."""
        without = self.measured - len(self.latencies_ms)
        return latency_percentiles(self.latencies_ms, without=without)


@dataclass
class LatencyBench:
    """One measurement; see `perception bench latency --help`."""

    setup: BenchSetup
    path: str
    rounds: int
    baseline_weights: str | None
    recorder: bool = False
    browsers: int = 0

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Measure.

        Args:
            say: receives lines of progress.

        Returns:
            The JSON result.

        Raises:
            SettingsError, ModelError: unusable options.
            GraphFailure: a process of the graph ended unexpectedly.
        """
        if self.recorder and self.path != "shm":
            raise SettingsError(f"--recorder is for --path shm, not {self.path}")
        model = load_model(self.setup.model)
        page = {"view": self.browsers > 0}
        MEASURED.nodes({**self._camera_values(frames=1), **self.setup.inference(), **page})
        per_round = -(-self.setup.frames // self.rounds) + WARM_UP_FRAMES
        ours, recorded, watched = _Samples(), _Samples(), _Samples()
        bare_ms, baseline_ms = list[float](), list[float]()
        with tempfile.TemporaryDirectory(prefix="perception_bench_") as folder:
            for number in range(1, self.rounds + 1):
                say(f"round {number} of {self.rounds}: pipeline, {per_round} frames")
                self._pipeline_round(Path(folder), per_round, ours)
                if self.recorder:
                    say(f"round {number} of {self.rounds}: pipeline beside a recorder")
                    self._pipeline_round(Path(folder), per_round, recorded, BESIDE_RECORDER)
                if self.browsers:
                    say(f"round {number} of {self.rounds}: pipeline with {self.browsers} browsers")
                    self._watched_round(Path(folder), per_round, watched)
                say(f"round {number} of {self.rounds}: bare inference")
                bare_ms += self._bare_round(Path(folder), per_round)
                if self.baseline_weights is not None:
                    say(f"round {number} of {self.rounds}: baseline")
                    input_size = (model.input.width, model.input.height)
                    baseline_ms += self._baseline_round(Path(folder), per_round, input_size)
        result = self._result(ours, bare_ms, baseline_ms)
        if self.recorder:
            result["beside_recorder"] = {
                "latency_ms": recorded.latency_ms(),
                "status": dict(recorded.statuses),
                "images": recorded.images,
            }
        if self.browsers:
            result["beside_browsers"] = {
                "browsers": self.browsers,
                "updates": watched.updates,
                "latency_ms": watched.latency_ms(),
                "status": dict(watched.statuses),
            }
        return result

    def _watched_round(self, folder: Path, frames: int, samples: _Samples) -> None:
        from perception_nodes.lab.browsers import Browsers, free_port

        port = free_port()
        with Browsers(self.browsers, port) as browsers:
            self._pipeline_round(folder, frames, samples, page={"view": True, "view_port": port})
        samples.updates += browsers.updates

    def _camera_values(self, frames: int) -> dict[str, Any]:
        return {"bag": self.setup.drive(frames), "listeners": 1}

    def _run_graph(self, graph: Graph, values: dict[str, Any]) -> None:
        with Supervisor(graph.nodes(values)) as supervisor:
            if not supervisor.wait():
                raise GraphFailure("interrupted")

    def _pipeline_round(
        self,
        folder: Path,
        frames: int,
        samples: _Samples,
        graph: Graph = MEASURED,
        page: Mapping[str, Any] = NO_PAGE,
    ) -> None:
        received, sent, images = (folder / f"{n}.json" for n in ("received", "sent", "images"))
        files = {"images_file": str(images)} if graph is BESIDE_RECORDER else {}
        self._run_graph(
            graph,
            {
                **files,
                **page,
                **self._camera_values(frames),
                # The receiver on the shm path takes detections from shared memory.
                "listeners": 1 if self.path == "dds" else 0,
                **self.setup.inference(),
                "deadline_ms": self.setup.deadline_ms,
                "source": self.path,
                "sent_file": str(sent),
                "received_file": str(received),
            },
        )
        stamps = [stamp for _, stamp in json.loads(sent.read_text())["sent"]]
        content = json.loads(received.read_text())
        if files:
            samples.images += json.loads(images.read_text())
        samples.add(stamps, content)

    def _bare_round(self, folder: Path, frames: int) -> list[float]:
        durations = folder / "durations.json"
        self._run_graph(
            BARE_INFERENCE,
            {
                **self._camera_values(frames),
                **self.setup.inference(),
                "source": "shm",
                "accounted": False,
                "durations_file": str(durations),
            },
        )
        return [ns / 1e6 for ns in json.loads(durations.read_text())[WARM_UP_FRAMES:]]

    def _baseline_round(
        self, folder: Path, frames: int, input_size: tuple[int, int]
    ) -> list[float]:
        script = share_folder() / "benchmarks/ultralytics_baseline.py"
        latencies = folder / "baseline.json"
        latencies.unlink(missing_ok=True)
        width, height = input_size
        process = subprocess.Popen(
            [
                sys.executable,
                str(script),
                "--weights",
                str(self.baseline_weights),
                "--width",
                str(width),
                "--height",
                str(height),
                "--out",
                str(latencies),
            ],
            env={**os.environ, **ros_environment(images=True)},
        )
        try:
            values = {**self._camera_values(frames), "listeners": 0, "accounted": False}
            self._run_graph(CAMERA, values)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(BASELINE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if not latencies.is_file():
            raise GraphFailure("the baseline did not run; `make baseline` installs what it needs")
        values_ms: list[float] = json.loads(latencies.read_text())
        return values_ms[WARM_UP_FRAMES:]

    def _result(
        self, ours: _Samples, bare_ms: list[float], baseline_ms: list[float]
    ) -> dict[str, Any]:
        latency_ms = ours.latency_ms()
        bare = latency_percentiles(bare_ms, MEDIAN_AND_P99)
        result: dict[str, Any] = {
            **self.setup.facts(),
            "path": self.path,
            "frames": ours.measured,
            "rounds": self.rounds,
            "warm_up_frames_per_round": WARM_UP_FRAMES,
            "latency_ms": latency_ms,
            "stages_ms": {
                stage: latency_percentiles(values, MEDIAN_AND_P99)
                for stage, values in ours.stages_ms.items()
            },
            "status": dict(ours.statuses),
            "miss_rate": 1 - ours.in_time / ours.measured if ours.measured else None,
            "frames_sent": ours.sent,
            "lost_in_transport": ours.sent - ours.arrived,
            "bare_inference_ms": bare,
            "overhead_ms": {"p50": difference(latency_ms["p50"], bare["p50"])},
            "copies_per_frame": float(np.mean(ours.copies)) if ours.copies else None,
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

    def row(name: str, values: dict[str, float | None]) -> None:
        table.add_row(
            name,
            *(
                shown(values[key], "{:.2f}", NO_DETECTIONS) if key in values else ""
                for key in ("p50", "p99", "p99_9", "max")
            ),
        )

    row("[bold]capture to detections", result["latency_ms"])
    for stage, values in result["stages_ms"].items():
        row(f"  {stage}", values)
    if "beside_recorder" in result:
        row("[bold]the same beside a recorder", result["beside_recorder"]["latency_ms"])
    if "beside_browsers" in result:
        beside = result["beside_browsers"]
        row(f"[bold]the same with {beside['browsers']} browsers", beside["latency_ms"])
    row("bare inference, same pace", result["bare_inference_ms"])
    row("overhead", result["overhead_ms"])
    if "baseline" in result:
        row("baseline", result["baseline"]["latency_ms"])
        table.add_row("speed-up over the baseline", f"{result.get('speedup_p50', 0):.1f} x")
    table.add_section()
    statuses = ", ".join(f"{name} {count}" for name, count in result["status"].items())
    table.caption = (
        f"{statuses}; missed {shown(result['miss_rate'], '{:.2%}')}; "
        f"lost in transport {result['lost_in_transport']}; "
        f"copies a frame {result['copies_per_frame']}\n"
        f"{WITHOUT_DETECTIONS}"
    )
    return table
