"""A drive with the vehicle's graph: runs it for a time, and notes what it publishes and takes."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perception_nodes.graph.graph import MONITOR, PLAYER
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.supervisor import GraphFailure, Supervisor, last_error
from perception_nodes.lab.budgets import SETTLING_S, STANDBY, START_S
from perception_nodes.lab.host import HostWatch
from perception_nodes.lab.resources import SAMPLE_S, ResourcesHeld, held
from perception_nodes.report.recording import Recording, read_messages, read_recording

OURS = (MONITOR.executable, PLAYER.executable)
"""Processes of this test, which have no budget."""


@dataclass
class Drive:
    """What was seen of a drive; times are nanoseconds since the Unix epoch.

    Attributes:
        started_ns: when the graph was started.
        ended_ns: when it was stopped, or ended.
        recording: frame reports, detections and health.
        arrivals_ns: when messages arrived, by topic.
        samples: what the processes held, by what they are, such as `detector_node standby`; their
            times are seconds since the start.
        died: processes that were started again.
        wanted: processes that were to run, named as in the samples.
        host: when the host of a virtual machine had a processor; None where nobody has looked.
    """

    started_ns: int
    ended_ns: int = 0
    recording: Recording = field(default_factory=Recording)
    arrivals_ns: dict[str, list[int]] = field(default_factory=dict)
    samples: list[ResourcesHeld] = field(default_factory=list)
    died: set[str] = field(default_factory=set)
    host: HostWatch | None = None
    wanted: set[str] = field(default_factory=set)


def drive(
    specs: Sequence[NodeSpec],
    recording: Path,
    log_path: Path,
    seconds: float,
    progress: Callable[[int, int], None],
) -> Drive:
    """Run a graph for a time.

    Args:
        specs: its processes; one of them is a monitor that records.
        recording: the file that the monitor writes.
        log_path: receives the messages of the nodes.
        seconds: how long to drive, besides the time that the start may take.
        progress: called with the seconds done and their total.

    Raises:
        GraphFailure: a process could not start, or ended that should not have; or nobody reads the
            progress any more.
        KeyboardInterrupt: interrupted by the user; everything that was started is stopped.
        Exception: what `progress` raised.
    """
    seen = Drive(time.time_ns(), wanted={_name(s) for s in specs if s.executable not in OURS})
    try:
        with (
            log_path.open("wb") as log,
            Supervisor(specs, log=log) as graph,
            HostWatch() as seen.host,
        ):
            observer = _Observer(graph, seen, seconds + START_S + SETTLING_S, progress)
            observer.start()
            try:
                completed = graph.wait()
            finally:
                seen.ended_ns = time.time_ns()
                observer.over.set()
                observer.join()
    except GraphFailure as error:
        raise GraphFailure(f"{error}: {last_error(log_path)}") from error
    if observer.error is not None:
        raise observer.error
    if not completed and not observer.time_is_up:
        raise KeyboardInterrupt
    seen.recording = read_recording(recording)
    arrivals: defaultdict[str, list[int]] = defaultdict(list)
    for message in read_messages(recording):
        arrivals[message.topic].append(message.log_time_ns)
    seen.arrivals_ns = dict(arrivals)
    return seen


class _Observer(threading.Thread):
    """Samples the processes while the graph runs, and stops it when the time is up."""

    def __init__(
        self, graph: Supervisor, seen: Drive, until_s: float, progress: Callable[[int, int], None]
    ) -> None:
        super().__init__()
        self._graph, self._seen, self._until_s = graph, seen, until_s
        self._progress = progress
        self._pids: dict[str, int] = {}
        self.over = threading.Event()
        self.time_is_up = False
        self.error: Exception | None = None

    def run(self) -> None:
        """Sample until it is over; an error ends the drive too, which nobody else would end."""
        try:
            self._observe()
        except SystemExit:  # by which rich ends a command whose screen is a closed pipe, status 1
            self.error = GraphFailure("nobody reads any more how far the drive is")
        except Exception as error:
            self.error = error
        finally:
            self._graph.stop()

    def _observe(self) -> None:
        begin_s = time.monotonic()
        while not self.over.wait(SAMPLE_S):
            elapsed_s = time.monotonic() - begin_s
            self._sample(elapsed_s)
            self._progress(int(min(elapsed_s, self._until_s)), int(self._until_s))
            if elapsed_s > self._until_s:
                self.time_is_up = True
                return

    def _sample(self, at_s: float) -> None:
        running = {
            _name(spec): process.pid
            for spec, process in list(self._graph.processes)
            if spec.executable not in OURS
        }
        for name, pid in running.items():
            if self._pids.setdefault(name, pid) != pid:
                self._seen.died.add(name)
        self._seen.samples.append(held(running.items(), at_s))


def _name(spec: NodeSpec) -> str:
    return spec.executable + (STANDBY if spec.stands_by else "")
