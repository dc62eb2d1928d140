"""A run: one execution of a graph, with what was sent to it, what came of it, and what it cost."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from perception_nodes.core.health import HealthMode
from perception_nodes.drives.schemas import DETECTIONS, FRAME_REPORT, HEALTH, PROTECTED
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.supervisor import GraphFailure, Supervisor
from perception_nodes.lab.resources import Sample, role_of
from perception_nodes.report.account import HealthMessage, Heard
from perception_nodes.report.recording import ReportedFrame, deserialized, read_messages
from perception_nodes.system.children import STOP_TIMEOUT_S
from perception_nodes.transport.cdr_reader import read_stamp

Beside = Callable[[Supervisor, threading.Event], bool | None]
"""Acts beside a graph in a thread of its own until the event is set; if it returns True, the run
ends in good order."""
INTERRUPTED_S = 2.0
"""The processes of an interrupted run get this long to end: nobody reads what they still write."""


@dataclass
class Run(Heard):
    """What is known of a run beside what was heard. Times are nanoseconds since the Unix epoch.

    Attributes:
        started_ns, ended_ns: when the graph was started, and when it ended or was stopped.
        failure: why the graph ended before the drive did; empty if it did not.
        numbers: number in the drive of each frame that was sent.
        late: by how many nanoseconds the camera had a frame later than it was due, by the frame's
            stamp, which is of that later time.
        warnings: lines that the player logged about the drive.
        first_ns: when the first frame was due.
        begin_ns, end_ns: begin of the first fault, end of the last one; without a fault, from when
            on the graph works.
        not_put_in: why the other faults were not put in, one line each.
        protected: protected messages: topic, time of arrival, serialized message.
        arrivals_ns: times of arrival by topic.
        samples: what the processes of the graph held.
        wanted: processes that were to run, named as in the samples.
    """

    started_ns: int = 0
    ended_ns: int = 0
    failure: str = ""
    numbers: list[int] = field(default_factory=list)
    late: list[tuple[int, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    first_ns: int = 0
    begin_ns: int = 0
    end_ns: int = 0
    not_put_in: list[str] = field(default_factory=list)
    protected: list[tuple[str, int, bytes]] = field(default_factory=list)
    arrivals_ns: dict[str, list[int]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    wanted: set[str] = field(default_factory=set)

    def read_sent(self, file: Path, warm_up: int = 0) -> None:
        """Add the stamps that the player has written; the first frames are the warm-up."""
        content = json.loads(file.read_text(encoding="utf-8"))
        stamps = [stamp_ns for _, stamp_ns in content["sent"]]
        self.sent = (self.sent or []) + stamps
        self.numbers += [number for number, _ in content["sent"]]
        self.warm_up |= set(stamps[:warm_up])
        self.warnings += content["warnings"]

    def read(self, recording: Path) -> None:
        """Add what a listener has recorded, the receiver or the monitor.

        Raises:
            RecordingError: the recording cannot be read.
        """
        for recorded in read_messages(recording):
            topic, type_name, at_ns, data, _ = recorded
            self.arrivals_ns.setdefault(topic, []).append(at_ns)
            if type_name == DETECTIONS:
                self.detections.append((at_ns, read_stamp(data)))
            elif type_name == PROTECTED:
                self.protected.append((topic, at_ns, data))
            elif type_name in (FRAME_REPORT, HEALTH):
                message = deserialized(recording, recorded)
                if type_name == HEALTH:
                    self.health.append(HealthMessage.of_message(at_ns, message))
                else:
                    self.reports.append(ReportedFrame.of_message(message, at_ns))

    def working_ns(self, at_latest_ns: int) -> int:
        """The time just after the drive's first NOMINAL, which comes with its first detections."""
        nominal = (told.at_ns for told in self.health if told.mode == HealthMode.NOMINAL)
        return min([at_latest_ns, *(at_ns + 1 for at_ns in nominal if at_ns >= self.first_ns)])


def check_written(*files: Path) -> None:
    """Check that player and recorder have written what they were to write.

    Raises:
        GraphFailure: a file is not there.
    """
    for file in files:
        if not file.is_file():
            why = "its disk is full, or so much else runs here that they were killed"
            raise GraphFailure(f"player or recorder did not write {file}: {why}")


def execute(
    run: Run, specs: Sequence[NodeSpec], log: Path | None = None, beside: Sequence[Beside] = ()
) -> None:
    """Run a graph to its end.

    Args:
        run: receives begin and end, and the processes that were to run.
        specs: the processes of the graph.
        log: receives the messages of the nodes; None for this process's own stderr.
        beside: what else goes on meanwhile.

    Raises:
        GraphFailure: a process could not start, or ended that should not have; or nobody reads the
            progress any more.
        KeyboardInterrupt: interrupted by the user; everything that was started is stopped.
        Exception: what one of `beside` has raised.
    """
    over, ended = threading.Event(), threading.Event()
    raised: list[BaseException] = []

    def act(call: Beside, graph: Supervisor) -> None:
        try:
            if not call(graph, over):
                return
            ended.set()
        # Rich ends a command by this, with status 1, if its screen is a closed pipe.
        except SystemExit:
            raised.append(GraphFailure("nobody reads the progress any more"))
        except BaseException as error:
            raised.append(error)
        graph.stop()

    run.wanted = {role_of(spec) for spec in specs if spec.kind.restarted}
    run.started_ns = time.time_ns()
    with ExitStack() as stack:
        file = None if log is None else stack.enter_context(log.open("wb"))
        graph = stack.enter_context(Supervisor(specs, stop_timeout_s=STOP_TIMEOUT_S, log=file))
        threads = [threading.Thread(target=act, args=(call, graph)) for call in beside]
        for thread in threads:
            thread.start()
        try:
            completed = graph.wait()
        finally:
            run.ended_ns = time.time_ns()
            over.set()
            for thread in threads:
                thread.join()
        if not (completed or raised or ended.is_set()):
            graph.stop_timeout_s = INTERRUPTED_S
            raise KeyboardInterrupt
    if raised:
        raise raised[0]
