"""`bench cameras`: one shared detector against one detector for each camera.

The bench itself plays the cameras. Their frames arrive at the same instant, which is the worst case
for a shared detector. The bench reads the outcomes in the journals of the processes.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from perception_nodes.cameras.channel import CameraHeader, camera_writer, monotonic_us
from perception_nodes.core.frame import RecordKind, latency_ms
from perception_nodes.graph.config import MAX_CAMERAS
from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.supervisor import GraphFailure, Supervisor
from perception_nodes.lab.bench import WARM_UP_FRAMES, WITHOUT_DETECTIONS, BenchSetup, latency_cells
from perception_nodes.lab.resources import held
from perception_nodes.lab.run import Run, execute
from perception_nodes.report.account import Account, account
from perception_nodes.report.figures import figure_table
from perception_nodes.report.recording import ReportedFrame
from perception_nodes.transport import channels
from perception_nodes.transport.shm import Endpoint, Writer

ROLES = ("detector", "preprocess")
ARRANGEMENTS = ("shared", "apart")
START_TIMEOUT_S = 60.0
SETTLE_S = 1.0
"""The last frame's outcome must be recorded within this time."""
LOWEST_RATE = 0.98
"""Share of the wanted rate below which the cameras of the bench did not keep it."""
NO_OUTCOME = "NO_OUTCOME"
"""Name for frames without an outcome in the journals, such as those passed over for a newer one."""


@dataclass
class CamerasBench:
    """One comparison; see `perception bench cameras --help`."""

    setup: BenchSetup
    cameras: Sequence[int]

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
        if not self.cameras or not all(1 <= number <= MAX_CAMERAS for number in self.cameras):
            raise SettingsError(f"--cameras must be numbers from 1 to {MAX_CAMERAS}, such as 1,2,4")
        runs = []
        for number in self.cameras:
            for arrangement in ARRANGEMENTS if number > 1 else ARRANGEMENTS[:1]:
                say(f"{number} cameras, {arrangement}: {self.setup.frames} frames each")
                filmed = Filmed(self.setup, [f"camera{index}" for index in range(number)])
                execute(Run(), self.specs([*filmed.runs], arrangement), beside=[filmed])
                entry = {"cameras": number, "arrangement": arrangement}
                runs.append({**entry, **figures(filmed.runs.values()), **filmed.costs})
        return {**self.setup.facts(), "runs": runs}

    def specs(self, names: Sequence[str], arrangement: str) -> list[NodeSpec]:
        """The processes for cameras of these names."""
        alone = {"source": "shm", "standby": "never", "deadline_ms": self.setup.deadline_ms}
        values = self.setup.inference() | alone
        if arrangement == "shared":
            return LIVE.nodes({**values, "cameras": ",".join(names)})
        return [spec for name in names for spec in LIVE.nodes({**values, "camera": name})]


class Filmed:
    """Films with several cameras in step beside a run, and reads what became of the frames.

    Attributes:
        runs: the run of each camera; detections count as arrived when they were published.
        costs: memory of all processes at the end, and the rate at which the frames were sent.
    """

    def __init__(self, setup: BenchSetup, names: Sequence[str]) -> None:
        """Nothing is filmed yet."""
        self._setup = setup
        self.runs = {name: Run(sent=[]) for name in names}
        self.costs: dict[str, float] = {}

    def __call__(self, graph: Supervisor, over: threading.Event) -> bool:
        """Wait for the graph, film, and end the run; return False if it was over before."""
        width, height = map(int, self._setup.size.split("x"))
        endpoint = Endpoint("bench_cameras")
        try:
            writers = [camera_writer(endpoint, n, 3 * width * height) for n in self.runs]
            self._journals = {
                name: [channels.record_reader(endpoint, name, role) for role in ROLES]
                for name in self.runs
            }
            give_up_s = time.monotonic() + START_TIMEOUT_S
            silent = [reader for readers in self._journals.values() for reader in readers]
            while silent and not over.is_set():
                if time.monotonic() > give_up_s:
                    raise GraphFailure(f"the graph is not ready after {START_TIMEOUT_S:g} s")
                silent[0].wait(100.0)
                silent = [reader for reader in silent if not reader.records()]
            shape, count = (height, width, 3), WARM_UP_FRAMES + self._setup.frames
            stamps, sent_ns = film(writers, shape, self._setup.rate_hz, count, over, self._hear)
            end_s = time.monotonic() + SETTLE_S
            while time.monotonic() < end_s and not over.wait(0.05):
                self._hear()
            if over.is_set():
                return False
            for run in self.runs.values():
                run.sent, run.warm_up = stamps, set(stamps[:WARM_UP_FRAMES])
            period_ns = float(np.diff(sent_ns[WARM_UP_FRAMES:]).mean())
            numbers = [(str(process.pid), process.pid) for _, process in graph.processes]
            memory_mb = sum(held(numbers, 0.0).memory_mb.values())
            self.costs = {"memory_mb": round(memory_mb), "filmed_hz": round(1e9 / period_ns, 2)}
            return True
        finally:
            endpoint.close()

    def _hear(self) -> None:
        for name, readers in self._journals.items():
            for record in (record for reader in readers for record in reader.records()):
                if record.kind == RecordKind.OUTCOME:
                    report = ReportedFrame.of_record(record, record.sent_ns)
                    self.runs[name].reports.append(report)
                    if (took_ms := latency_ms(report)) is not None:
                        arrived_ns = report.stamp_ns + round(took_ms * 1e6)
                        self.runs[name].detections.append((arrived_ns, report.stamp_ns))


def film(
    writers: Sequence[Writer[CameraHeader]],
    shape: tuple[int, int, int],
    rate_hz: float,
    frames: int,
    over: threading.Event,
    hear: Callable[[], object],
) -> tuple[list[int], list[int]]:
    """Send the frames of all cameras in step, until the last one or until `over`.

    Args:
        writers: one for each camera.
        shape: of a frame, `bgr8`.
        rate_hz: frames a second.
        frames: number of frames of each camera.
        over: ends the film when it is set.
        hear: called after each frame.

    Returns:
        The stamps of the frames, and when they were sent (CLOCK_MONOTONIC), which is later than
        they were due if filling them takes longer than a period.
    """
    height, width, row = *shape[:2], 3 * shape[1]
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    due_ns, stamps, sent_ns = time.monotonic_ns(), list[int](), list[int]()
    for number in range(frames):
        if over.is_set():
            break
        due_ns += round(1e9 / rate_hz)
        samples = [writer.loan() for writer in writers]
        stamps.append(time.time_ns() + due_ns - time.monotonic_ns())
        for sample in samples:
            image = sample.payload.reshape(shape)
            image[:] = pixels
            image[: height // 2] += np.uint8(number % 256)  # otherwise the camera would look frozen
            sample.header.number = number
            # Stamp the frame with the time at which it is due, so that our own delay counts. A
            # delay of more than a second does not count, since such a stamp is not believed; the
            # rate shows it.
            sample.header.describe(stamps[-1], "bgr8", width, height, row, row * height, "camera")
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        sent_ns.append(time.monotonic_ns())
        for writer, sample in zip(writers, samples, strict=True):
            sample.header.filled_us = monotonic_us()
            writer.send(sample)
        hear()
    return stamps, sent_ns


def figures(runs: Iterable[Run]) -> dict[str, Any]:
    """The figures of a run, as JSON holds them.

    Args:
        runs: the run of each camera.
    """
    accounts = [account(run) for run in runs]
    together = Account([frame for found in accounts for frame in found.frames])
    for found in accounts:
        together.statuses += found.statuses
    without = sum(frame.report is None for frame in together.frames)
    instants = Counter(f.report.inferred_ns for f in together.frames if f.report is not None)
    in_time = [1 - len(found.missed) / len(found.frames) for found in (together, *accounts)]
    return {
        "status": dict(together.statuses) | ({NO_OUTCOME: without} if without else {}),
        "in_time": in_time[0],
        "in_time_of_worst_camera": min(in_time[1:]),
        "latency_ms": together.latency_ms(),
        "calls_for_several": sum(n > 1 for at_ns, n in instants.items() if at_ns),
    }


def result_table(result: Mapping[str, Any]) -> Table:
    """The result as a table for the terminal."""
    times = ("filmed at", "p50 ms", "p99 ms", "in time", "worst camera")
    table = figure_table(
        ["cameras", ""],
        [*times, "no outcome", "calls for several", "memory"],
        f"{result['size']} at {result['rate_hz']:g} Hz in step, {escape(result['model'])} on "
        f"{result['backend']}, {result['deadline_ms']:g} ms",
    )
    is_slow = False
    for run in result["runs"]:
        filmed_hz = f"{run['filmed_hz']:g} Hz"
        if run["filmed_hz"] < LOWEST_RATE * result["rate_hz"]:
            is_slow, filmed_hz = True, f"[red]{filmed_hz}"
        table.add_row(
            str(run["cameras"]),
            run["arrangement"],
            filmed_hz,
            *latency_cells(run["latency_ms"], ("p50", "p99"), "{:.1f}"),
            f"{run['in_time']:.1%}",
            f"{run['in_time_of_worst_camera']:.1%}",
            str(run["status"].get(NO_OUTCOME, 0)),
            str(run["calls_for_several"]),
            f"{run['memory_mb']} MB",
        )
    captions = [result["machine"], WITHOUT_DETECTIONS]
    if is_slow:
        captions.append(
            f"red: the bench itself did not fill its frames at {result['rate_hz']:g} Hz, "
            "of which such a row says nothing; lower --rate, --size or --cameras"
        )
    table.caption = "\n".join(captions)
    return table
