"""Starts the processes of a graph, restarts one that dies, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from perception_nodes.core import failover
from perception_nodes.core.errors import PerceptionError
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.restarts import Restarts
from perception_nodes.graph.ros_packages import require_ros
from perception_nodes.system.awake import kept_awake
from perception_nodes.system.children import start
from perception_nodes.system.last_words import LastWords
from perception_nodes.system.life import new_life
from perception_nodes.system.output import STDERR
from perception_nodes.system.processes import Process, is_stopped
from perception_nodes.system.signals import STOPPING, handled_stopping
from perception_nodes.transport.claim import Claim, claim_of
from perception_nodes.transport.domain import in_namespace
from perception_nodes.transport.fastdds import sweep_segments
from perception_nodes.transport.lease import Lease
from perception_nodes.transport.memory import NAMESPACE
from perception_nodes.transport.notes import Notes, configuration
from perception_nodes.transport.remains import forget, sweep
from perception_nodes.transport.standing import FILES_REMOVED, removed_file

STOP_TIMEOUT_S = 5.0
ANEW_TIMEOUT_S = 1.0
"""The same where the graph starts anew: nodes without their files may not be able to end."""
ROLES = ("preprocess", "detector", "watchdog")
LAST_REPORTS_S = 4.0
"""How long a watchdog that was started to report the last frames gets to find its listeners."""
GRAPH = "graph"
"""What is restarted where all nodes are."""
STANDBYS_AFTER_S = 1.5
"""Standbys are started this much later than the nodes that work at once, which need the processors
until then."""
START_FAILED = 2
"""Exit status of a node that could not start; one that fails later has another. At the first start
it ends the graph, unless the node is dispensable, since a restart would not help. Later the cause
may go away, such as memory that others hold."""

SCREEN = 1
"""Our standard output. Where it is no terminal, it is for results alone."""
COLOURS = "RCUTILS_COLORIZED_OUTPUT"
"""Tells nodes that people read their messages at a terminal, which they write to through us."""
SOURCE_ENDED = 4
"""Exit status of a camera whose source has come to its end, which may show only then."""


FROM_OUTSIDE = (signal.SIGKILL, *STOPPING)
"""Signals that end a process by the will of another one."""


class GraphFailure(PerceptionError):
    """A process of the graph ended although it should not."""

    word = "failed"


def last_error(log: Path) -> str:
    """The last error in the messages of a graph's processes, or else their last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if "ERROR" in line or "rror:" in line]
    return (errors or lines or ["no message"])[-1]


@contextmanager
def claimed(specs: Sequence[NodeSpec]) -> Iterator[tuple[str, list[Claim]]]:
    """While in this context a graph is ours: its cameras, and the names of its nodes.

    What a killed graph has left is removed first, and what ours leaves at the end. In between the
    processors stay awake if the graph wants it; the context gives a line about it, perhaps empty,
    and the claims.

    Raises:
        SettingsError: a ROS package is missing.
        TransportError: another process runs a graph of one of the cameras in the same namespace, or
            with the same names of nodes; or shared memory is another user's.
    """
    require_ros()
    # Only nodes that are restarted make a graph; a player alone is just a camera.
    restarted = [spec for spec in specs if spec.kind.restarted]
    cameras = sorted({name for spec in restarted for name in spec.settings.served})
    namespace = specs[0].environment.get(NAMESPACE, "")
    claims = {claim_of(name, namespace): f"a graph of camera {name!r}" for name in cameras}
    # Cameras that share a detector have nodes of the names that the default camera has.
    claims |= {one.full_name: f"a graph with a node {one.full_name}" for one in restarted[:1]}

    with ExitStack() as held:
        held.enter_context(in_namespace(namespace))
        ours = []
        for name, meaning in claims.items():
            ours.append(Claim(name, meaning))
            held.callback(ours[-1].release)
        _sweep(cameras, ours)
        held.callback(_sweep, cameras, ours)
        for camera in cameras:
            for role in ROLES:  # map them, to see when they are removed
                held.callback(Lease(camera, role).close)
        processors = set().union(*(spec.awake_processors for spec in specs))
        yield held.enter_context(kept_awake(processors)) if processors else "", ours


class Supervisor:
    """The processes of one graph; a context manager that stops them all when it is left.

    Attributes:
        stop_timeout_s: a process is killed if it has not ended this long after it was asked to.
    """

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        stop_timeout_s: float = STOP_TIMEOUT_S,
        log: IO[bytes] | None = None,
        while_alive: Process | None = None,
    ) -> None:
        """Take the processes to start.

        Args:
            specs: in the order of starting.
            stop_timeout_s: see the attribute.
            log: receives the processes' output, except the monitor's screen; our own standard error
                by default.
            while_alive: the graph is stopped when this process has ended.
        """
        self._specs = specs
        self.stop_timeout_s = stop_timeout_s
        self._log = log
        self._while_alive = while_alive
        self._restarts = Restarts()
        self._started: dict[str, tuple[NodeSpec, subprocess.Popen[bytes]]] = {}
        self._start_at_s: dict[str, float] = {}
        self._running_s: dict[str, float] = {}
        self._looked_s = 0.0
        self._shut_down: set[str] = set()
        self._last_words: dict[str, LastWords] = {}
        self._held = ExitStack()
        run = {spec.full_name: [spec.kind.module, *spec.arguments()] for spec in specs}
        self._life = new_life() | configuration(run)
        self._notes: Notes | None = None
        self._changes: Mapping[str, Any] = {}
        self._stop_requested = False
        self._claims: list[Claim] = []

    @property
    def processes(self) -> list[tuple[NodeSpec, subprocess.Popen[bytes]]]:
        """The started processes in their order; for a restarted one, the last process."""
        return list(self._started.values())

    def __enter__(self) -> "Supervisor":
        """Claim the cameras, remove what a killed graph left, start all but the standbys.

        Raises:
            SettingsError, TransportError: it cannot be `claimed`.
        """
        with ExitStack() as held:
            held.enter_context(handled_stopping(lambda *_: self.stop()))
            line, self._claims = held.enter_context(claimed(self._specs))
            if line:
                self._say(line)
            self._removed = ""
            for spec in self._specs:
                self._last_words[spec.name] = words = LastWords()
                held.callback(words.close)
            for spec in [spec for spec in self._specs if spec.kind.restarted][:1]:
                self._notes = Notes(spec.settings.served[0], of_supervisor=True)
                held.callback(self._notes.close)
                self._notes.keep(self._changes)
            held.callback(self._stop_all)
            self._started.clear()
            self._start_at_s.clear()
            for spec in self._specs:
                if spec.name in self._shut_down:
                    continue
                if spec.stands_by:
                    self._start_at_s[spec.name] = time.monotonic() + STANDBYS_AFTER_S
                else:
                    self._started[spec.name] = spec, self._start(spec)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the processes, and leave nothing behind."""
        self._held.close()

    def _stop_all(self) -> None:
        """Stop the processes in reverse order, and the watchdog when the others have ended."""
        for last in (False, True):
            ending = [one for one in reversed(self.processes) if one[0].kind.stops_last == last]
            processes = [self._reporting(*one) if last else one[1] for one in ending]
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
            deadline_s = time.monotonic() + self.stop_timeout_s
            for process in processes:
                try:
                    process.wait(max(0.0, deadline_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _reporting(
        self, spec: NodeSpec, process: "subprocess.Popen[bytes]"
    ) -> "subprocess.Popen[bytes]":
        """A process of the watchdog that reports the last frames: another one if it was killed."""
        if process.poll() is None or not _is_from_outside(process.returncode):
            return process
        self._say(f"{spec.name} ended {_how(process.returncode)}; another one tells of its frames")
        try:
            process = self._start(spec)
            process.wait(LAST_REPORTS_S)
        except (OSError, subprocess.SubprocessError):  # it runs, as it should
            pass
        return process

    def stop(self) -> None:
        """End `wait`; may be called from any thread."""
        self._stop_requested = True

    def _start_if_possible(self, spec: NodeSpec) -> None:
        """Start it, unless the machine has no room for a process: the others must go on then."""
        try:
            self._started[spec.name] = spec, self._start(spec)
            del self._start_at_s[spec.name]
        except (OSError, subprocess.SubprocessError) as error:
            self._start_at_s[spec.name] = time.monotonic() + failover.DELAY_S
            again = f"tried again in {failover.DELAY_S:g} s"
            self._say(f"{spec.name} cannot be started: {error}; {again}")

    def _start(self, spec: NodeSpec) -> subprocess.Popen[bytes]:
        words = self._last_words[spec.name]
        words.clear()
        self._restarts.note_start(spec.name, time.monotonic())
        log = STDERR if self._log is None else self._log
        if self._log is None and sys.stderr.isatty():
            os.environ.setdefault(COLOURS, "1")
        screen = SCREEN if os.isatty(SCREEN) else STDERR
        return start(
            [sys.executable, "-m", spec.kind.module, *spec.arguments()],
            {**self._life, **words.environment, **spec.environment},
            # Blocked until the node can stop in good order, see `run_node`: before, the signals
            # would end Python in the middle of an import.
            begin=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING),
            stdout=log if spec.executable != "monitor_node" else screen,
            stderr=log,
            pass_fds=(words.descriptor,),
        )

    def wait(self) -> bool:
        """Start the standbys, and wait until the graph ends; to be called in the starting thread.

        The kernel kills a process when the thread that started it ends.

        Returns:
            True if it ended by itself, or all of its nodes were shut down through their life cycle;
            False if it was stopped.

        Raises:
            GraphFailure: a process that should run on has ended, or could not start; with the last
                error in the log, if there is one.
        """
        while not self._is_to_stop():
            for claim in self._claims:
                claim.sign()
            self._look_after_files()
            for spec in self._specs:
                if spec.name in self._shut_down:
                    continue
                if spec.name not in self._start_at_s:
                    _, process = self._started[spec.name]
                    if (status := process.poll()) is None:
                        self._kill_stopped(spec, process)
                        continue
                    if status == SOURCE_ENDED or (spec.ends_graph and status == 0):
                        self._shut_down.add(spec.name)
                        ends = [s for s in self._specs if s.ends_graph]
                        # Without a file, the graph ends when all cameras have.
                        ends = ends or [s for s in self._specs if s.kind == spec.kind]
                        if all(s.name in self._shut_down for s in ends):
                            return True
                        self._say(f"{spec.name} has come to its end; others go on")
                        continue
                    if self._stop_requested:
                        return False
                    self._removed = removed_file()
                    if self._removed or status == FILES_REMOVED:
                        break
                    if spec.kind.restarted and (status == 0 or self._is_done_without(spec, status)):
                        self._shut_down.add(spec.name)
                        how = f"ended {_how(status)}" if status else "was shut down"
                        self._say(f"{spec.name} {how} and is not started again")
                        if all(s.name in self._shut_down for s in self._specs if s.kind.restarted):
                            return True
                        continue
                    self._start_at_s[spec.name] = self._note_death(spec, status)
                if time.monotonic() >= self._start_at_s[spec.name]:
                    self._start_if_possible(spec)
            if self._notes is not None:
                self._notes.tell_lines_dropped()
            time.sleep(failover.SUPERVISOR_LOOK_S)
        return False

    def _look_after_files(self) -> None:
        """Start the graph anew if its files were removed, also if only a node knows of it.

        A node that is started beside others which go on with removed files would not know of them.
        """
        lost = [str(claim.path) for claim in self._claims if not claim.stands]
        if FILES_REMOVED in [process.poll() for _, process in self.processes]:
            lost.append("what a node used")
        if removed := self._removed or " and ".join(lost):
            self._say(f"{removed} was removed from shared memory; the graph starts anew")
            self._changes = self._notes.changes() if self._notes is not None else {}
            timeout_s, self.stop_timeout_s = self.stop_timeout_s, ANEW_TIMEOUT_S
            self._held.close()
            self.stop_timeout_s, self._life = timeout_s, self._life | new_life()
            time.sleep(self._restarts.note_death(GRAPH, time.monotonic())[1])
            self.__enter__()

    def _is_to_stop(self) -> bool:
        if self._while_alive is not None and not self._while_alive.is_alive():
            self.stop()
        return self._stop_requested

    def _kill_stopped(self, spec: NodeSpec, process: subprocess.Popen[bytes]) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s > failover.AWAY_S:
            self._running_s.clear()  # we were stopped ourselves, and perhaps all others with us
        self._looked_s = now_s
        since_s = self._running_s.setdefault(spec.name, now_s)
        if not spec.kind.restarted or not is_stopped(process.pid):
            self._running_s[spec.name] = now_s
        elif now_s - since_s > failover.STOPPED_S:
            process.kill()

    def _is_done_without(self, spec: NodeSpec, status: int) -> bool:
        first = not self._restarts.has_died(spec.name)
        is_vain = (first and status == START_FAILED) or self._restarts.is_hopeless(spec.name)
        return spec.kind.dispensable and is_vain

    def _note_death(self, spec: NodeSpec, status: int) -> float:
        """Report a death; return when to restart the process, in seconds of CLOCK_MONOTONIC."""
        ended = f"{spec.name} ended {_how(status)}"
        first = not self._restarts.has_died(spec.name)
        said = self._last_words[spec.name].read()
        if not spec.kind.restarted or (status == START_FAILED and first and not spec.stands_by):
            raise GraphFailure(ended + self._why(said))
        now_s = time.monotonic()
        cause = "" if _is_from_outside(status) else said or ended
        deaths, delay_s = self._restarts.note_death(spec.name, now_s, cause)
        if not (spec.stands_by or spec.kind.dispensable) and self._restarts.is_hopeless(spec.name):
            raise GraphFailure(f"{ended} at once, {failover.SAME_CAUSE} times{self._why(said)}")
        if spec.stands_by and status == START_FAILED:
            delay_s = failover.STANDBY_AGAIN_S
        when = f"in {delay_s:g} s, {deaths} deaths within a minute" if delay_s else "at once"
        self._say(f"{ended} and is started again {when}")
        return now_s + delay_s

    def _why(self, last_words: str) -> str:
        if not last_words and self._log is not None:
            last_words = last_error(Path(self._log.name))
        return f": {last_words}" if last_words else ""

    def _say(self, line: str) -> None:
        # Write to where the nodes write: on the screen it would tear the live view. If the process
        # that started us was killed, perhaps nobody reads any more.
        with suppress(OSError):
            os.write(STDERR if self._log is None else self._log.fileno(), f"{line}\n".encode())


def _sweep(cameras: Sequence[str], claims: Sequence[Claim]) -> None:
    """Remove what killed processes have left in shared memory, and what ours have told."""
    sweep()
    sweep_segments()
    # Where a claim was removed, the files may be another graph's by now.
    for camera in cameras if all(claim.stands for claim in claims) else ():
        forget(camera)


def _is_from_outside(status: int) -> bool:
    return -status in FROM_OUTSIDE or status - 128 in FROM_OUTSIDE


def _how(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    names = {one.value: one.name for one in signal.Signals}
    return f"by signal {names.get(-status, -status)}"  # most real-time signals have no name
