"""Several cameras: one shared detector against one detector for each camera.

The bench itself plays the cameras. Their frames arrive at the same instant, which is the worst case
for a shared detector. The bench takes the outcomes from where the watchdog does: the records of the
processes.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from rich.markup import escape
from rich.table import Table

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.cameras.channel import CameraHeader, camera_writer, monotonic_us
from perception_nodes.core.frame import IN_TIME, FrameRecord, FrameStatus, RecordKind, latency_ms
from perception_nodes.core.inference import BatchBackend
from perception_nodes.core.statistics import latency_percentiles
from perception_nodes.evaluation.models import picture
from perception_nodes.graph.config import MAX_CAMERAS
from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.supervisor import GraphFailure, Supervisor
from perception_nodes.lab.setup import (
    NO_DETECTIONS,
    WARM_UP_FRAMES,
    WITHOUT_DETECTIONS,
    BenchSetup,
)
from perception_nodes.networks.model import load_model
from perception_nodes.report.figures import figure_table
from perception_nodes.report.page import shown
from perception_nodes.system.environment import cache_folder
from perception_nodes.system.processes import open_process
from perception_nodes.transport import channels
from perception_nodes.transport.shm import Endpoint, Reader, Writer

ROLES = ("detector", "preprocess")
ARRANGEMENTS = ("shared", "apart")
START_TIMEOUT_S = 60.0
SETTLE_S = 1.0
"""After the last frame, until its outcome must have been recorded."""
LOWEST_RATE = 0.98
"""Share of the wanted rate below which the cameras of the bench did not keep it."""
NO_OUTCOME = "NO_OUTCOME"
"""A detector went on to a newer frame, or nobody saw the frame: its records do not tell."""
Say = Callable[[str], None]


@dataclass
class CamerasRun:
    """The outcomes of the frames of one run, without the warm-up.

    Attributes:
        statuses: by camera; `NO_OUTCOME` for a frame that nothing was recorded of.
        latencies_ms: capture to publish, of all cameras.
        together: inference calls for frames of more than one camera.
        memory_mb: memory of all processes of the graph, at the end.
        filmed_hz: rate at which the frames were sent.
    """

    statuses: dict[str, Counter[str]]
    latencies_ms: list[float] = field(default_factory=list)
    together: int = 0
    memory_mb: float = 0.0
    filmed_hz: float = 0.0


@dataclass
class CamerasBench:
    """One comparison; see `perception bench cameras --help`."""

    setup: BenchSetup
    cameras: Sequence[int]

    def run(self, say: Say) -> dict[str, Any]:
        """Measure.

        Args:
            say: receives lines of progress.

        Returns:
            The JSON result.

        Raises:
            SettingsError, ModelError, BackendError: unusable options.
            GraphFailure: a process of the graph ended unexpectedly.
        """
        if not self.cameras or not all(1 <= number <= MAX_CAMERAS for number in self.cameras):
            raise SettingsError(f"--cameras must be numbers from 1 to {MAX_CAMERAS}, such as 1,2,4")
        most = max(self.cameras)
        say(f"{self.setup.model} on {self.setup.backend}: calls for 1 to {most} frames")
        calls = self._calls(most)
        runs = []
        for number in self.cameras:
            for arrangement in ARRANGEMENTS if number > 1 else ARRANGEMENTS[:1]:
                say(f"{number} cameras, {arrangement}: {self.setup.frames} frames each")
                names = [f"camera{index}" for index in range(number)]
                run = self._run_graph(names, arrangement)
                runs.append({"cameras": number, "arrangement": arrangement, **facts(run)})
        return {
            **self.setup.facts(),
            "calls_ms": calls,
            "runs": runs,
        }

    def _calls(self, most: int) -> list[dict[str, Any]]:
        """Time calls for 1, 2, ... frames at once, alternating with as many single calls."""
        model = load_model(self.setup.model)
        settings = BackendSettings(
            self.setup.threads, max_batch=most, timing_dir=str(cache_folder())
        )
        backend = open_backend(self.setup.backend, settings)
        info = backend.load(model)
        images = [picture(model).copy() for _ in range(most)]
        several = cast(BatchBackend, backend)
        entries = []
        for size in range(1, most + 1):
            single_ms, at_once_ms = [], []
            for _ in range(self.setup.frames):
                start_ns = time.monotonic_ns()
                for image in images[:size]:
                    backend.infer(image)
                single_ms.append((time.monotonic_ns() - start_ns) / 1e6)
                if 1 < size <= info.max_batch:
                    start_ns = time.monotonic_ns()
                    several.infer_batch(images[:size])
                    at_once_ms.append((time.monotonic_ns() - start_ns) / 1e6)
            entries.append(
                {
                    "frames": size,
                    "one_after_the_other": latency_percentiles(single_ms),
                    "at_once": latency_percentiles(at_once_ms),
                }
            )
        backend.close()
        return entries

    def _specs(self, names: Sequence[str], arrangement: str) -> list[NodeSpec]:
        values: dict[str, Any] = {
            "source": "shm",
            "standby": "never",
            **self.setup.inference(),
            "deadline_ms": self.setup.deadline_ms,
            "outcome_timeout_ms": max(1000.0, 2 * self.setup.deadline_ms),
        }
        if arrangement == "shared":
            return LIVE.nodes({**values, "cameras": ",".join(names)})
        return [spec for name in names for spec in LIVE.nodes({**values, "camera": name})]

    def _run_graph(self, names: Sequence[str], arrangement: str) -> CamerasRun:
        """Film with a graph; it is waited for in this thread."""
        found: list[CamerasRun | BaseException] = []
        stopped = threading.Event()

        def act() -> None:
            try:
                found.append(self._film(names, supervisor, stopped))
            except BaseException as error:
                found.append(error)
            supervisor.stop()

        with Supervisor(self._specs(names, arrangement)) as supervisor:
            filming = threading.Thread(target=act)
            filming.start()
            try:
                supervisor.wait()
                interrupted = not found
            finally:
                # Its shared memory has to be gone before the command ends.
                stopped.set()
                filming.join()
        if interrupted:
            raise GraphFailure("interrupted")
        if isinstance(found[0], BaseException):
            raise found[0]
        return found[0]

    def _film(
        self, names: Sequence[str], supervisor: Supervisor, stopped: threading.Event
    ) -> CamerasRun:
        width, height = map(int, self.setup.size.split("x"))
        endpoint = Endpoint("bench_cameras")
        try:
            writers = [camera_writer(endpoint, n, 3 * width * height) for n in names]
            records = {
                name: [channels.record_reader(endpoint, name, role) for role in ROLES]
                for name in names
            }
            give_up_s = time.monotonic() + START_TIMEOUT_S
            silent = [reader for readers in records.values() for reader in readers]
            while silent:
                if stopped.is_set():
                    return CamerasRun({})
                if time.monotonic() > give_up_s:
                    raise GraphFailure(f"the graph is not ready after {START_TIMEOUT_S:g} s")
                silent[0].wait(100.0)
                silent = [reader for reader in silent if not reader.records()]
            heard: dict[str, list[FrameRecord]] = {name: [] for name in names}
            filmed_hz = film(
                writers,
                (height, width, 3),
                self.setup.rate_hz,
                self.setup.frames,
                stopped,
                lambda: _hear(records, heard),
            )
            if stopped.is_set():
                return CamerasRun({})
            end_s = time.monotonic() + SETTLE_S
            while time.monotonic() < end_s:
                time.sleep(0.05)
                _hear(records, heard)
            run = judged(heard, self.setup.frames)
            run.filmed_hz = filmed_hz
            for _, process in supervisor.processes:
                handle = open_process(process.pid)
                if handle is not None:
                    run.memory_mb += handle.rss_bytes() / 1e6
                    handle.close()
            return run
        finally:
            endpoint.close()


def film(
    writers: Sequence[Writer[CameraHeader]],
    shape: tuple[int, int, int],
    rate_hz: float,
    frames: int,
    stopped: threading.Event,
    hear: Callable[[], object],
) -> float:
    """Send the frames of all cameras in step, until the last one or until `stopped`.

    Args:
        writers: one for each camera.
        shape: of a frame, `bgr8`.
        rate_hz: frames a second.
        frames: to measure, behind those of the warm-up.
        stopped: set to end it.
        hear: called behind each frame.

    Returns:
        The rate at which the measured frames were sent: less than `rate_hz` where filling them
        takes longer than a period.
    """
    height, width, _ = shape
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    due_ns, sent_ns = time.monotonic_ns(), []
    for number in range(WARM_UP_FRAMES + frames):
        if stopped.is_set():
            break
        due_ns += round(1e9 / rate_hz)
        samples = [writer.loan() for writer in writers]
        stamp_ns = time.time_ns() + due_ns - time.monotonic_ns()
        for sample in samples:
            image = sample.payload.reshape(shape)
            image[:] = pixels
            image[: height // 2] += np.uint8(number % 256)  # else it would look frozen
            sample.header.number = number
            # Stamped with the time at which it is due, so that our own delay counts. (One of more
            # than a second does not: such a stamp is not believed. The rate tells of it.)
            sample.header.describe(
                stamp_ns, "bgr8", width, height, 3 * width, 3 * width * height, "camera"
            )
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
        sent_ns.append(time.monotonic_ns())
        for writer, sample in zip(writers, samples, strict=True):
            sample.header.filled_us = monotonic_us()
            writer.send(sample)
        hear()
    measured_ns = sent_ns[WARM_UP_FRAMES:]
    return 1e9 / float(np.diff(measured_ns).mean()) if len(measured_ns) > 1 else 0.0


def judged(heard: Mapping[str, Sequence[FrameRecord]], frames: int) -> CamerasRun:
    """Count the outcomes of each camera's frames.

    Args:
        heard: outcomes by camera.
        frames: number of frames of each camera that count; earlier ones are the warm-up.
    """
    run = CamerasRun({name: Counter() for name in heard})
    instants: Counter[int] = Counter()
    for name, outcomes in heard.items():
        counted: dict[int, FrameRecord] = {}
        for record in outcomes:
            if record.sequence >= WARM_UP_FRAMES:
                counted.setdefault(record.sequence, record)
        for record in counted.values():
            run.statuses[name][FrameStatus(record.status).name] += 1
            taken_ms = latency_ms(record)
            if taken_ms is not None:
                run.latencies_ms.append(taken_ms)
            if record.inferred_ns:
                instants[record.inferred_ns] += 1
        lost = frames - len(counted)
        if lost > 0:
            run.statuses[name][NO_OUTCOME] += lost
    run.together = sum(count > 1 for count in instants.values())
    return run


def facts(run: CamerasRun) -> dict[str, Any]:
    """A run as JSON."""
    names = [status.name for status in IN_TIME]
    in_time = [
        sum(counts[name] for name in names) / counts.total() for counts in run.statuses.values()
    ]
    total = sum(run.statuses.values(), Counter[str]())
    return {
        "status": dict(total),
        "in_time": sum(total[name] for name in names) / total.total(),
        "in_time_of_worst_camera": min(in_time),
        "latency_ms": latency_percentiles(
            run.latencies_ms, without=total.total() - len(run.latencies_ms)
        ),
        "calls_for_several": run.together,
        "memory_mb": round(run.memory_mb),
        "filmed_hz": round(run.filmed_hz, 2),
    }


def _hear(
    records: Mapping[str, Sequence[Reader[FrameRecord]]],
    heard: Mapping[str, list[FrameRecord]],
) -> None:
    for name, readers in records.items():
        for reader in readers:
            heard[name].extend(r for r in reader.records() if r.kind == RecordKind.OUTCOME)


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
        latency, filmed_hz = run["latency_ms"], f"{run['filmed_hz']:g} Hz"
        if run["filmed_hz"] < LOWEST_RATE * result["rate_hz"]:
            is_slow, filmed_hz = True, f"[red]{filmed_hz}"
        table.add_row(
            str(run["cameras"]),
            run["arrangement"],
            filmed_hz,
            *(shown(latency[k], "{:.1f}", NO_DETECTIONS) for k in ("p50", "p99")),
            f"{run['in_time']:.1%}",
            f"{run['in_time_of_worst_camera']:.1%}",
            str(run["status"].get(NO_OUTCOME, 0)),
            str(run["calls_for_several"]),
            f"{run['memory_mb']} MB",
        )
    lines = []
    for call in result["calls_ms"]:
        at_once = call["at_once"]["p50"]
        told = "" if at_once is None else f", at once {at_once:.1f}"
        lines.append(f"{call['frames']}: {call['one_after_the_other']['p50']:.1f}{told}")
    captions = [f"{result['machine']}; median ms of inferring frames one after the other: "]
    captions[0] += "; ".join(lines)
    captions += [WITHOUT_DETECTIONS]
    if is_slow:
        captions.append(
            f"red: the bench itself did not fill its frames at {result['rate_hz']:g} Hz, "
            "of which such a row says nothing; lower --rate, --size or --cameras"
        )
    table.caption = "\n".join(captions)
    return table
