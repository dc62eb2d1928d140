"""How often the deadline is missed under load, and whether every miss is reported.

It is measured from outside the graph: for every frame that the camera sent, the bench looks for the
detections and the report that a receiver got.
"""

import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from perception_nodes.core.frame import IN_TIME, PUBLISHED, FrameStatus
from perception_nodes.core.statistics import latency_percentiles
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.supervisor import GraphFailure, Supervisor, last_error
from perception_nodes.lab.conditions import CONDITIONS, Surroundings, check_conditions
from perception_nodes.lab.graphs import MEASURED
from perception_nodes.lab.host import HostWatch
from perception_nodes.lab.resources import (
    SAMPLE_S,
    ResourcesHeld,
    constancy,
    held,
    processor_shares,
)
from perception_nodes.lab.setup import (
    NO_DETECTIONS,
    WARM_UP_FRAMES,
    WITHOUT_DETECTIONS,
    BenchSetup,
)
from perception_nodes.report.figures import figure_table
from perception_nodes.report.page import shown
from perception_nodes.system.realtime import allowed_priority

REAL_TIME = ", real time"
"""Ends the name of a condition under which the graph had real-time priority."""
SOAKED = ("watchdog_node", "detector_node", "preprocess_node")
"""Processes that must not grow. The receiver does: it keeps everything that it received."""
ENDLESS_FRAMES = 100_000_000
"""A second graph plays until it is stopped."""
SOAK = "soak"
START_S = 8.0
"""About the time that a graph takes to start, for the progress bar."""


@dataclass
class Condition:
    """The measurements under one condition.

    Attributes:
        latencies_ms: capture to arrival of the detections at the receiver, in order.
        statuses: reports by status.
        sent: frames measured, without the warm-up.
        missed: frames without detections in time.
        missed_by_host: those of them during which the host of a virtual machine had a processor.
        silent: missed frames whose report does not say so, or that have no report.
        arrived_late: frames published in time that reached the receiver after the deadline.
        processor_shares: share of one processor, by process.
    """

    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    missed: int = 0
    missed_by_host: int = 0
    silent: int = 0
    arrived_late: int = 0
    processor_shares: dict[str, float] = field(default_factory=dict)


def account(
    stamps: Sequence[int],
    arrivals: Sequence[tuple[int, int]],
    reports: Sequence[dict[str, Any]],
    deadline_ms: float,
    host_took: Callable[[int, int], bool] = lambda begin_ns, end_ns: False,
    warm_up: Sequence[int] = (),
) -> Condition:
    """Compare what was received with what was sent.

    Args:
        stamps: stamps of the frames sent, without the warm-up, in nanoseconds since the Unix epoch.
        arrivals: stamp and arrival time of detections.
        reports: frame reports with `stamp_ns` and `status`.
        deadline_ms: from capture to publish.
        host_took: whether the host of a virtual machine had a processor between two times, in
            nanoseconds since the epoch.
        warm_up: stamps of the frames sent before those; some reports without a stamp are theirs.
    """
    wanted = set(stamps)
    told = {report["stamp_ns"] for report in reports}
    arrived = {stamp: (at - stamp) / 1e6 for stamp, at in arrivals if stamp in wanted}
    found = [report for report in reports if report["stamp_ns"] in wanted]
    status = {report["stamp_ns"]: FrameStatus[report["status"]] for report in found}
    # A frame that was dropped before its stamp was read is reported without one.
    anonymous = sum(
        not report["stamp_ns"] and FrameStatus[report["status"]] not in IN_TIME
        for report in reports
    )
    anonymous = max(0, anonymous - sum(stamp not in told for stamp in warm_up))
    condition = Condition(list(arrived.values()), sent=len(stamps))
    condition.statuses.update(report["status"] for report in found)
    unknown = 0
    for stamp in stamps:
        said = status.get(stamp)
        in_time = said in IN_TIME and stamp in arrived
        if not in_time:
            condition.missed += 1
            late_ns = stamp + round(max(arrived.get(stamp, 0.0), deadline_ms) * 1e6)
            condition.missed_by_host += host_took(stamp, late_ns)
        condition.arrived_late += in_time and arrived[stamp] > deadline_ms
        if said is None:
            unknown += 1
        elif said in PUBLISHED and stamp not in arrived:
            condition.silent += 1
    condition.silent += max(0, unknown - anonymous)
    if unknown and anonymous:
        condition.statuses["without a stamp"] = min(unknown, anonymous)
    return condition


@dataclass
class DeadlineBench:
    """One measurement; see `perception bench deadline --help`."""

    setup: BenchSetup
    conditions: Sequence[str]
    soak_minutes: float
    real_time: Sequence[bool] = (False,)
    fifo_priority: int = -1
    stay_awake: str = "auto"

    def __post_init__(self) -> None:
        """Check the conditions.

        Raises:
            SettingsError: one is unknown, or cannot be brought about here; or real time is wanted
                and not allowed.
        """
        check_conditions(self.conditions)
        if any(self.real_time) and not allowed_priority():
            raise SettingsError(
                "real time is not allowed here; allow it with LimitRTPRIO=, `ulimit -r` or "
                "CAP_SYS_NICE, or measure with --real-time without"
            )

    def values(self, real_time: bool) -> dict[str, Any]:
        """Parameters of the graph."""
        return {
            "source": "shm",
            **self.setup.inference(),
            "deadline_ms": self.setup.deadline_ms,
            "fifo_priority": self.fifo_priority if real_time else 0,
            "stay_awake": self.stay_awake if real_time else "never",
        }

    def run(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Measure.

        Args:
            progress: called with the seconds done and their total.

        Raises:
            SettingsError, ModelError: unusable options.
            GraphFailure: a process of the graph ended unexpectedly, or the run was interrupted.
            LoadEnded: a condition was not there to the end.
        """
        plan = [
            (name, real_time, self.setup.frames)
            for name in self.conditions
            for real_time in self.real_time
        ]
        if self.soak_minutes:
            frames = round(self.soak_minutes * 60 * self.setup.rate_hz)
            plan.append((SOAK, any(self.real_time), frames))
        seconds = [START_S + (frames + WARM_UP_FRAMES) / self.setup.rate_hz for *_, frames in plan]
        all_s = round(sum(seconds))
        measured: dict[str, Condition] = {}
        samples: list[ResourcesHeld] = []
        with tempfile.TemporaryDirectory(prefix="perception_bench_") as folder:
            for index, (name, real_time, frames) in enumerate(plan):
                done_s, values = sum(seconds[:index]), self.values(real_time)
                run = _Round(
                    self.setup, values, Path(folder), frames, lambda s: progress(int(s), all_s)
                )
                load = CONDITIONS["quiet" if name == SOAK else name]
                without_end = self.setup.drive(ENDLESS_FRAMES)
                with load(Surroundings(Path(folder), values, without_end)):
                    found = run.measure(done_s, done_s + seconds[index])
                measured[name + (REAL_TIME if real_time else "")] = found
                samples = run.samples
        return self._result(measured, samples)

    def _result(
        self, measured: dict[str, Condition], samples: list[ResourcesHeld]
    ) -> dict[str, Any]:
        result: dict[str, Any] = {
            **self.setup.facts(),
            "fifo_priority": self.fifo_priority,
            "stay_awake": self.stay_awake,
            "warm_up_frames": WARM_UP_FRAMES,
            "conditions": {
                name: {
                    "frames": found.sent,
                    "latency_ms": latency_percentiles(
                        found.latencies_ms, without=found.sent - len(found.latencies_ms)
                    ),
                    "status": dict(found.statuses),
                    "miss_rate": found.missed / found.sent if found.sent else None,
                    "missed_by_host": found.missed_by_host,
                    "silent_misses": found.silent,
                    "in_time_and_arrived_late": found.arrived_late,
                    "processor_shares": found.processor_shares,
                    "latencies_ms": [round(value, 3) for value in sorted(found.latencies_ms)],
                }
                for name, found in measured.items()
            },
        }
        if self.soak_minutes:
            result["soak"] = constancy(samples) | {"minutes": self.soak_minutes}
        result["passed"] = all(
            found.sent and not found.silent for found in measured.values()
        ) and result.get("soak", {}).get("constant", True)
        return result


class _Round:
    """One run of the graph."""

    def __init__(
        self,
        setup: BenchSetup,
        values: dict[str, Any],
        folder: Path,
        frames: int,
        progress: Callable[[float], None],
    ) -> None:
        self._received, self._sent = folder / "received.json", folder / "sent.json"
        self._log = folder / "nodes.log"
        self._specs = MEASURED.nodes(
            {
                **values,
                "bag": setup.drive(frames + WARM_UP_FRAMES),
                "listeners": 0,  # the receiver takes detections from shared memory
                "sent_file": str(self._sent),
                "received_file": str(self._received),
            }
        )
        self._deadline_ms = setup.deadline_ms
        self._progress = progress
        self._over = threading.Event()
        self.samples: list[ResourcesHeld] = []

    def measure(self, begin_s: float, end_s: float) -> Condition:
        """Run the graph; the two times are its start and end on the progress bar."""
        with self._log.open("wb") as log, Supervisor(self._specs, log=log) as graph:
            observer = threading.Thread(target=self._observe, args=(graph, begin_s, end_s))
            observer.start()
            try:
                with HostWatch() as host:
                    completed = graph.wait()
            except GraphFailure as error:
                raise GraphFailure(f"{error}: {last_error(self._log)}") from error
            finally:
                self._over.set()
                observer.join()
        if not completed:
            raise GraphFailure("interrupted")
        stamps = [stamp for _, stamp in json.loads(self._sent.read_text())["sent"]]
        content = json.loads(self._received.read_text())
        condition = account(
            stamps[WARM_UP_FRAMES:],
            content["arrivals"],
            content["reports"],
            self._deadline_ms,
            host.had_a_processor,
            stamps[:WARM_UP_FRAMES],
        )
        condition.processor_shares = processor_shares(self.samples)
        return condition

    def _observe(self, graph: Supervisor, begin_s: float, end_s: float) -> None:
        started_s = time.monotonic()
        while not self._over.wait(SAMPLE_S):
            elapsed_s = time.monotonic() - started_s
            processes = [(s.name, p.pid) for s, p in graph.processes if s.executable in SOAKED]
            self.samples.append(held(processes, elapsed_s))
            self._progress(min(begin_s + elapsed_s, end_s))


def result_table(result: dict[str, Any]) -> Table:
    """The result as a table for the terminal."""
    latencies = ("p50 ms", "p99 ms", "p99.9 ms", "max ms")
    table = figure_table(
        [""],
        ["frames", *latencies, "missed", "by host", "silently", "arrived late"],
        f"{result['size']} at {result['rate_hz']:g} Hz over shared memory against "
        f"{result['deadline_ms']:g} ms, {escape(result['model'])} on {result['backend']}",
    )
    for name, found in result["conditions"].items():
        latency = [found["latency_ms"][key] for key in ("p50", "p99", "p99_9", "max")]
        silent = found["silent_misses"]
        table.add_row(
            name.replace("_", " "),
            str(found["frames"]),
            *(shown(value, "{:.2f}", NO_DETECTIONS) for value in latency),
            shown(found["miss_rate"], "{:.2%}"),
            str(found["missed_by_host"]),
            f"[red]{silent}" if silent else "0",
            str(found["in_time_and_arrived_late"]),
        )
    first = next(iter(result["conditions"].values()))
    shares = (f"{name} {share:.1%}" for name, share in first["processor_shares"].items())
    captions = [WITHOUT_DETECTIONS]
    captions += ["by host: missed frames during which a virtual machine's host had a processor"]
    captions += ["arrived late: published in time, and with the receiver after the deadline"]
    captions += [f"of one processor: {', '.join(shares)}"]
    if "soak" in result:
        soak = result["soak"]
        state = soak["state"] if soak["constant"] else f"[red]{soak['state']}[/]"
        memory = ", ".join(f"{n} {v:+.1f}" for n, v in soak["memory_growth_mb"].items())
        captions.append(f"soak of {soak['minutes']:g} minutes: {state} (MB: {memory})")
    table.caption = "\n".join(captions)
    return table
