"""Starts the processes of a graph, restarts one that dies, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from types import FrameType
from typing import IO

from perception_nodes.graph.graph import NodeSpec
from perception_nodes.system.environment import STOPPING, die_with_parent
from perception_nodes.system.processes import is_stopped
from perception_nodes.transport.domain import sweep
from perception_nodes.transport.fastdds import sweep_segments

POLL_S = 0.05
STOP_TIMEOUT_S = 5.0
DEATHS_AT_ONCE = 5
"""So many deaths of a process within a minute are followed by a restart at once."""
RESTART_DELAY_S = 1.0
"""Further ones by one after so long: whatever kills it, restarts shall not starve the others."""
STOPPED_S = 1.0
"""A process that is stopped for so long is killed, and started again. Others notice a hang sooner,
but only of one that has spoken before."""
START_FAILED = 2
"""Exit status of a node that could not start. The first time it ends the graph, since starting it
again would not help; later it may be for want of what others will give back."""


class GraphFailure(RuntimeError):
    """A process of the graph ended that should not have."""


class Supervisor:
    """The processes of one graph; a context manager that stops them all when it is left."""

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        stop_timeout_s: float = STOP_TIMEOUT_S,
        log: IO[bytes] | None = None,
    ) -> None:
        """Take the processes to start.

        Args:
            specs: in the order of starting.
            stop_timeout_s: one that hangs longer when it is to stop is killed.
            log: receives what they write, but for the monitor's screen; ours by default.
        """
        self._restart_at_s: dict[str, float] = {}
        self._running_s: dict[str, float] = {}
        self._deaths: dict[str, deque[float]] = {spec.name: deque() for spec in specs}
        self._specs = specs
        self._log = log
        self._stop_timeout_s = stop_timeout_s
        self.processes: list[tuple[NodeSpec, subprocess.Popen[bytes]]] = []
        self._stop_requested = False
        self._previous_handlers: dict[int, object] = {}

    def __enter__(self) -> "Supervisor":
        """Start everything."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous_handlers[number] = signal.signal(number, self._request_stop)
        try:
            for spec in self._specs:
                self.processes.append((spec, self._start(spec)))
        except BaseException:
            # Python does not leave a context that it has not entered.
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop in reverse order, who speaks before who listens, and wait for all."""
        stopping = [process for _, process in reversed(self.processes)]
        for process in stopping:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline_s = time.monotonic() + self._stop_timeout_s
        for process in stopping:
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        sweep()
        sweep_segments()
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def stop(self) -> None:
        """End the wait."""
        self._stop_requested = True

    def _start(self, spec: NodeSpec) -> subprocess.Popen[bytes]:
        us = os.getpid()
        # A session of its own: Ctrl-C reaches us alone, and we stop the others in order.
        return subprocess.Popen(
            [sys.executable, "-m", spec.module, *spec.arguments()],
            env={**os.environ, **spec.environment},
            stdin=subprocess.DEVNULL,
            stdout=None if spec.executable == "monitor_node" else self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=lambda: _begin(us),
        )

    def wait(self) -> bool:
        """Wait until the graph is over, in the thread that started it.

        Processes die with the thread that they were started from.

        Returns:
            True where it ended by itself, False where it was interrupted.

        Raises:
            GraphFailure: a process ended on its own that should not have, or could not start.
        """
        while not self._stop_requested:
            for index, (spec, process) in enumerate(self.processes):
                status = process.poll()
                if status is None:
                    self._kill_stopped(spec, process)
                    continue
                if spec.ends_graph and status == 0:
                    return True
                if self._stop_requested:
                    return False
                if spec.name not in self._restart_at_s:
                    self._restart_at_s[spec.name] = self._note_death(spec, status)
                if time.monotonic() >= self._restart_at_s[spec.name]:
                    del self._restart_at_s[spec.name]
                    self.processes[index] = (spec, self._start(spec))
            time.sleep(POLL_S)
        return False

    def _kill_stopped(self, spec: NodeSpec, process: subprocess.Popen[bytes]) -> None:
        now_s = time.monotonic()
        since_s = self._running_s.setdefault(spec.name, now_s)
        if not spec.restarted or not is_stopped(process.pid):
            self._running_s[spec.name] = now_s
        elif now_s - since_s > STOPPED_S:
            process.kill()

    def _note_death(self, spec: NodeSpec, status: int) -> float:
        """Tell of it; when the process is to be started again, seconds of CLOCK_MONOTONIC."""
        ended = f"{spec.name} ended {_how(status)}"
        deaths, now_s = self._deaths[spec.name], time.monotonic()
        if not spec.restarted or status == 0 or (status == START_FAILED and not deaths):
            raise GraphFailure(ended)
        deaths.append(now_s)
        while now_s - deaths[0] > 60:
            deaths.popleft()
        delay_s = 0.0 if len(deaths) <= DEATHS_AT_ONCE else RESTART_DELAY_S
        # Where the nodes write: on the screen it would tear the live view.
        when = f"in {delay_s:g} s, {len(deaths)} deaths within a minute" if delay_s else "at once"
        line = f"{ended} and is started again {when}\n".encode()
        os.write(sys.stderr.fileno() if self._log is None else self._log.fileno(), line)
        return now_s + delay_s

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop()


def _begin(supervisor: int) -> None:
    """What a node does before it is one."""
    die_with_parent(supervisor)
    # Until it can stop in good order, see `run_node`; Python would end it in mid-import.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)


def _how(status: int) -> str:
    if status < 0:
        return f"by signal {signal.Signals(-status).name}"
    return f"with status {status}"
