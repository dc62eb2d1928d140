"""`bench deadline`: how often the deadline is missed under load, and whether each miss is reported.

It is measured from outside the graph: for every frame that the camera sent, the bench looks for the
detections and the report that a receiver got.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape

from perception_nodes.graph.settings import SettingsError
from perception_nodes.lab import bench
from perception_nodes.lab.calibration import Calibration, calibrate
from perception_nodes.lab.conditions import CONDITIONS, Surroundings, check_conditions
from perception_nodes.lab.graphs import MEASURED
from perception_nodes.lab.host import HostWatch
from perception_nodes.lab.resources import Sample, Sampler, constancy, processor_shares
from perception_nodes.lab.run import Beside, Run
from perception_nodes.report.account import HostTook, account
from perception_nodes.report.figures import figure_table
from perception_nodes.report.page import shown
from perception_nodes.system.realtime import allowed_priority

REAL_TIME = ", real time"
"""Suffix of a condition's name if the graph had real-time priority."""
LOOKS = ", looks "
"""Suffix of a condition's name, before that, with the value of `second_look` if it is not off."""
ENDLESS_FRAMES = 100_000_000
"""Number of frames of a second graph, which plays until it is stopped."""
SOAK = "soak"
START_S = 8.0
"""Approximate time that a graph takes to start, for the progress bar."""
MEANINGS = (
    bench.WITHOUT_DETECTIONS,
    "looks: second looks for each frame",
    "smaller: frames in time with the faster network, DEGRADED",
    "by host: missed frames during which a virtual machine's host had a processor",
    "arrived late: published in time, and with the receiver after the deadline",
    "bare: the model's inference alone before and after the condition",
)
"""What figures of the conditions mean."""


@dataclass
class DeadlineBench:
    """One measurement; see `perception bench deadline --help`."""

    setup: bench.BenchSetup
    conditions: Sequence[str]
    soak_minutes: float
    real_time: Sequence[bool] = (False,)
    fifo_priority: int = -1
    stay_awake: str = "auto"
    second_look: Sequence[str] = ("off",)

    def __post_init__(self) -> None:
        """Check the conditions.

        Raises:
            SettingsError: one is unknown, or cannot be brought about here; a value of second_look
                is none, or comes twice; or real time is wanted and not allowed.
        """
        check_conditions(self.conditions)
        if len({*self.second_look}) < len(self.second_look):
            raise SettingsError(f"second_look {','.join(self.second_look)}: a value comes twice")
        for second_look in self.second_look:
            MEASURED.settings({**self.values(False, second_look), "bag": self.setup.drive(1)})
        if any(self.real_time) and not allowed_priority():
            how = "allow it with LimitRTPRIO=, `ulimit -r` or CAP_SYS_NICE"
            raise SettingsError(
                f"real time is not allowed here; {how}, or pass --real-time without"
            )

    def values(self, real_time: bool, second_look: str) -> dict[str, Any]:
        """Parameters of the graph."""
        own = (self.fifo_priority, self.stay_awake) if real_time else (0, "never")
        values = {"source": "shm", **self.setup.inference(), "deadline_ms": self.setup.deadline_ms}
        values |= dict(zip(("fifo_priority", "stay_awake"), own, strict=True))
        return {**values, "second_look": second_look}

    def run(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Measure.

        Args:
            progress: called with the seconds done and their total.

        Returns:
            The JSON result.

        Raises:
            SettingsError, ModelError: unusable options.
            GraphFailure: a process of the graph ended unexpectedly.
            LoadEnded: a condition ended before the measurement.
            KeyboardInterrupt: interrupted by the user.
        """
        frames = self.setup.frames
        plan = [*product(self.conditions, self.real_time, self.second_look, [frames])]
        if self.soak_minutes:
            count = round(self.soak_minutes * 60 * self.setup.rate_hz)
            plan.append((SOAK, any(self.real_time), self.second_look[-1], count))
        seconds = [START_S + (n + bench.WARM_UP_FRAMES) / self.setup.rate_hz for *_, n in plan]
        conditions: dict[str, Any] = {}
        samples: list[Sample] = []
        for index, (name, real_time, second_look, frames) in enumerate(plan):

            def show(elapsed_s: float, done: int = index) -> None:
                at_s = sum(seconds[:done]) + min(elapsed_s, seconds[done])
                progress(int(at_s), round(sum(seconds)))

            show(0)
            run, host = Run(), HostWatch()
            values = self.values(real_time, second_look)
            inference = *self.setup.inference().values(), values["fifo_priority"]
            before = calibrate(*inference)
            with tempfile.TemporaryDirectory(prefix="perception_bench_") as folder:
                around = Surroundings(Path(folder), values, self.setup.drive(ENDLESS_FRAMES))
                with CONDITIONS["quiet" if name == SOAK else name](around):
                    # The receiver takes detections from shared memory, and is no listener.
                    drive = {"bag": self.setup.drive(frames + bench.WARM_UP_FRAMES), "listeners": 0}
                    beside: list[Beside] = [host, Sampler(run.samples, show)]
                    log = Path(folder) / "nodes.log"
                    bench.play(run, MEASURED, {**values, **drive}, Path(folder), log, beside)
            found = figures(run, self.setup, host.had_a_processor, (before, calibrate(*inference)))
            looks = "" if second_look == "off" else LOOKS + second_look
            title = name + looks + REAL_TIME * real_time
            conditions[title] = found
            samples = run.samples
        return self.result(conditions, samples)

    def result(self, conditions: Mapping[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
        """The JSON result.

        Args:
            conditions: figures by the name of the condition.
            samples: samples of the last run, which is the soak if there is one.
        """
        result = {
            **self.setup.facts(),
            "fifo_priority": self.fifo_priority,
            "stay_awake": self.stay_awake,
            "second_look": [*self.second_look],
            "warm_up_frames": bench.WARM_UP_FRAMES,
            "conditions": conditions,
        }
        if self.soak_minutes:
            result["soak"] = constancy(samples) | {"minutes": self.soak_minutes}
        told = all(found["frames"] and not found["silent_misses"] for found in conditions.values())
        result["passed"] = told and result.get("soak", {}).get("constant", True)
        return result


def figures(
    run: Run, setup: bench.BenchSetup, host_took: HostTook, around: Sequence[Calibration] = ()
) -> dict[str, Any]:
    """The figures of a condition, as JSON holds them.

    Args:
        run: what was sent and received.
        setup: model and deadline.
        host_took: tells when the host of a virtual machine had a processor.
        around: calibrations before and after the run.
    """
    found, deadline_ms = account(run), setup.deadline_ms
    return {
        "frames": len(found.frames),
        "latency_ms": found.latency_ms(),
        "status": dict(found.statuses),
        "miss_rate": found.miss_rate,
        "looks": sum(len(one.report.looks) for one in found.frames if one.report is not None),
        "calibration": [asdict(one) for one in around],
        "missed_by_host": found.missed_by_host(host_took, deadline_ms),
        "silent_misses": found.silent,
        "in_time_and_arrived_late": found.arrived_late(deadline_ms),
        "processor_shares": processor_shares(run.samples),
        "latencies_ms": [round(value, 3) for value in sorted(found.latencies_ms)],
    }


HEAD = (
    "frames, p50, p99, p99.9, max, missed, silently, looks, smaller, by host, arrived late, bare"
).split(", ")
"""Names of the columns of `condition_rows`, behind that of the condition."""
SILENTLY = 1 + HEAD.index("silently")
"""Columns up to this one say how it went, those behind it why."""


def condition_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """The figures of the conditions as rows of a table, times in milliseconds."""
    return [
        [
            name.replace("_", " "),
            str(found["frames"]),
            *bench.latency_cells(found["latency_ms"], ("p50", "p99", "p99_9", "max")),
            shown(found["miss_rate"], "{:.2%}"),
            str(found["silent_misses"]),
            f"{found.get('looks', 0) / max(found['frames'], 1):.2f}",
            f"{found['status'].get('DEGRADED', 0) / max(found['frames'], 1):.1%}",
            str(found["missed_by_host"]),
            str(found["in_time_and_arrived_late"]),
            ", ".join(f"{one['bare_ms']:.1f}" for one in found.get("calibration", ())),
        ]
        for name, found in result["conditions"].items()
    ]


def result_table(result: dict[str, Any]) -> Group:
    """The result as two tables for the terminal, since one would have no room for the names."""
    title = (
        f"{result['size']} at {result['rate_hz']:g} Hz over shared memory against "
        f"{result['deadline_ms']:g} ms, {escape(result['model'])} on {result['backend']}, in ms"
    )
    measured, why = figure_table([""], HEAD[:SILENTLY], title), figure_table([""], HEAD[SILENTLY:])
    for name, *cells in condition_rows(result):
        if cells[SILENTLY - 1] != "0":
            cells[SILENTLY - 1] = f"[red]{cells[SILENTLY - 1]}"
        measured.add_row(name, *cells[:SILENTLY])
        why.add_row(name, *cells[SILENTLY:])
    first = next(iter(result["conditions"].values()))
    shares = (f"{name} {share:.1%}" for name, share in first["processor_shares"].items())
    captions = [*MEANINGS, f"of one processor: {', '.join(shares)}"]
    if "soak" in result:
        soak = result["soak"]
        state = soak["state"] if soak["constant"] else f"[red]{soak['state']}[/]"
        memory = ", ".join(f"{n} {v:+.1f}" for n, v in soak["memory_growth_mb"].items())
        captions.append(f"soak of {soak['minutes']:g} minutes: {state} (MB: {memory})")
    why.caption = "\n".join(captions)
    return Group(measured, why)
