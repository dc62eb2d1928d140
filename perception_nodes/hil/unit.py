"""The unit under test: the graph of the vehicle, started and disturbed by orders of a bench.

`perception hil unit` serves on the vehicle computer; `RemoteUnit` is its other end, on the bench.
An order and its answer are a line of JSON each, over TCP.
"""

import json
import os
import queue
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from perception_nodes.graph.config import SettingsError
from perception_nodes.graph.graph import LIVE, NodeSpec
from perception_nodes.graph.supervisor import GraphFailure, Supervisor
from perception_nodes.hil.address import joined_address, split_address
from perception_nodes.hil.inject import NotInjected, Target, put_in, with_faulty_backend
from perception_nodes.hil.scenario import Fault, RebootFault, Scenario
from perception_nodes.hil.scratch import scratch_folder
from perception_nodes.replay.demo import last_error
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 20.0
RETRY_S = 0.1
_FAULTS: TypeAdapter[tuple[Fault, ...]] = TypeAdapter(tuple[Fault, ...])


class UnitError(RuntimeError):
    """The unit is not there, or could not do what it was told; one line that says why."""


@dataclass
class _Job:
    """A graph that was ordered.

    Attributes:
        specs: its processes.
        camera: its camera's name.
        target: it, while it runs.
        stopping: it was told to stop.
        dark_s: it is to be started again after so long.
        failure: why it ended by itself.
        over: it has ended.
    """

    specs: list[NodeSpec]
    camera: str
    target: Target | None = None
    stopping: bool = False
    dark_s: float | None = None
    failure: str = ""
    over: threading.Event = field(default_factory=threading.Event)


def _forget() -> None:
    """Remove what the graph holds in shared memory, which outlives no reboot."""
    for left in SHM_FOLDER.glob(f"{own_prefix()}*"):
        with suppress(OSError):  # another user's
            left.unlink()


class UnitServer:
    """Serves one bench at a time: who starts a graph ends the one before.

    Attributes:
        job: the graph that runs; it ends with the connection that ordered it.
    """

    def __init__(self, host: str, port: int, values: Mapping[str, Any]) -> None:
        """Listen.

        Args:
            host: address to listen on; orders start and kill processes: a network of one's own.
            port: 0 for any.
            values: parameters of the graph that go before those of a scenario.

        Raises:
            UnitError: the address cannot be had.
        """
        self._values = dict(values)
        self._wanted: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self.job: _Job | None = None
        self._files = scratch_folder()
        self._orders = Path(self._files.name) / "orders.json"
        self._log = Path(self._files.name) / "nodes.log"
        try:
            self._server = _Server((host, port), _Connection)
        except (OSError, UnicodeError) as error:
            self._files.cleanup()
            address = joined_address(host, port)
            raise UnitError(f"cannot listen on {address}: {error}") from error
        self._server.unit = self

    @property
    def address(self) -> str:
        """HOST:PORT."""
        host, port = self._server.server_address[:2]
        return joined_address(str(host), int(port))

    def run(self) -> None:
        """Serve until interrupted, in the main thread: nodes die with the one that starts them."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            interrupted = False
            while not interrupted:
                job = self._wanted.get()
                self._run_graph(job)
                interrupted = not (job.stopping or job.failure)
                job.over.set()
        except KeyboardInterrupt:
            pass
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._files.cleanup()

    def _run_graph(self, job: _Job) -> None:
        """Run a graph until it is told to stop, over reboots."""
        with self._log.open("wb") as log:
            while not job.stopping:
                try:
                    with Supervisor(job.specs, log=log) as graph:
                        job.target = Target(graph, job.camera, self._orders)
                        graph.wait()
                except GraphFailure as error:
                    job.failure = f"{error}: {last_error(self._log)}"
                job.target = None
                if job.dark_s is None:
                    return
                dark_s, job.dark_s = job.dark_s, None
                _forget()
                time.sleep(dark_s)

    # What a bench may order; arguments and results are JSON.

    def clock(self) -> int:
        """CLOCK_REALTIME here, nanoseconds."""
        return time.time_ns()

    def start(self, domain: str, values: dict[str, Any], faults: list[Any]) -> None:
        """Start the graph; it is not waited for.

        Raises:
            SettingsError: unusable parameters.
        """
        self.stop()
        os.environ["ROS_DOMAIN_ID"] = domain
        chosen = {**values, **self._values}
        specs = with_faulty_backend(
            LIVE.nodes(chosen), _FAULTS.validate_python(faults), self._orders
        )
        self.job = _Job(specs, str(chosen.get("camera", "front")))
        self._wanted.put(self.job)

    def put_in(self, fault: dict[str, Any]) -> None:
        """Put a fault in, and come back when it is over.

        Raises:
            NotInjected: it cannot be.
        """
        (checked,) = _FAULTS.validate_python([fault])
        job = self.job
        if job is None or job.target is None:
            raise NotInjected("no graph runs")
        if not isinstance(checked, RebootFault):
            put_in(checked, job.target, time.sleep)
            return
        graph, job.dark_s = job.target.supervisor, checked.for_s
        graph.stop()
        for _, process in graph.processes:
            process.kill()
        time.sleep(checked.for_s)

    def failure(self) -> str:
        """Why the graph ended by itself; empty where it did not."""
        return "" if self.job is None else self.job.failure

    def stop(self) -> str:
        """Stop the graph; what its nodes wrote."""
        if self.job is None:
            return ""
        job, self.job = self.job, None
        job.stopping, job.dark_s = True, None
        while not job.over.wait(RETRY_S):
            if job.target is not None:
                job.target.supervisor.stop()
        return self._log.read_text(encoding="utf-8", errors="replace")


ORDERS = frozenset({"clock", "start", "put_in", "failure", "stop"})


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    unit: UnitServer

    def __init__(self, address: tuple[str, int], handler: type["_Connection"]) -> None:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__(address, handler)


class _Connection(socketserver.StreamRequestHandler):
    """Answers line by line; a bench that is gone stops what it has started."""

    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        unit, started = self.server.unit, None
        with suppress(OSError):
            for line in self.rfile:
                before = unit.job
                self.wfile.write(json.dumps(self._answer(line)).encode() + b"\n")
                started = started if unit.job is before else unit.job
        if started is not None and unit.job is started:
            unit.stop()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            order = json.loads(line)
            if order["order"] not in ORDERS:
                return {"error": f"no such order: {order['order']}"}
            return {"result": getattr(self.server.unit, order["order"])(*order["arguments"])}
        except Exception as error:  # the bench must know, whatever it was
            said = " ".join(str(error).split())
            known = isinstance(error, SettingsError | NotInjected)
            return {"error": said if known else f"{type(error).__name__}: {said}"}


class RemoteUnit:
    """A unit on another machine, or in another namespace of this one; a context manager."""

    def __init__(self, address: str, within_s: float = CONNECT_TIMEOUT_S) -> None:
        """Connect; it may still be starting.

        Args:
            address: HOST or HOST:PORT.
            within_s: how long to try.

        Raises:
            SettingsError: it is no address.
            UnitError: nobody answers.
        """
        self._at = split_address(address)
        self._connection = self._connect(within_s)

    def clock(self) -> int:
        """CLOCK_REALTIME there, nanoseconds."""
        return int(self._connection.ask("clock"))

    def start(self, scenario: Scenario, values: Mapping[str, Any]) -> None:
        """Start the graph there.

        Raises:
            UnitError: it cannot.
        """
        faults = [fault.model_dump() for fault in scenario.faults]
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        self._connection.ask("start", domain, dict(values), faults)

    def put_in(self, fault: Fault) -> None:
        """Put a fault in there, and come back when it is over; for a thread of its own.

        Raises:
            NotInjected: it cannot be.
        """
        timeout_s = fault.for_s + ANSWER_TIMEOUT_S
        try:
            with closing(self._connect(CONNECT_TIMEOUT_S)) as connection:
                connection.ask("put_in", fault.model_dump(), timeout_s=timeout_s)
        except UnitError as error:
            raise NotInjected(str(error)) from error

    def failure(self) -> str:
        """Why its graph ended by itself; empty where it did not."""
        return str(self._connection.ask("failure"))

    def stop(self) -> str:
        """Stop its graph; what its nodes wrote."""
        return str(self._connection.ask("stop"))

    def __enter__(self) -> "RemoteUnit":
        """Nothing to do: it is connected."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave; its graph stops, where it runs."""
        self._connection.close()

    def _connect(self, within_s: float) -> "_Client":
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                return _Client(socket.create_connection(self._at, timeout=ANSWER_TIMEOUT_S))
            except (OSError, UnicodeError) as error:
                if time.monotonic() > deadline_s:
                    raise UnitError(
                        f"no unit answers at {joined_address(*self._at)}: {error}; start it there "
                        "with: perception hil unit --listen HOST"
                    ) from error
                time.sleep(RETRY_S)


class _Client:
    """One connection to a unit."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._file = connection.makefile("rb")
        self._turn = threading.Lock()

    def ask(self, order: str, *arguments: Any, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        line = json.dumps({"order": order, "arguments": arguments}).encode() + b"\n"
        try:
            with self._turn:
                self._socket.settimeout(timeout_s)
                self._socket.sendall(line)
                said = self._file.readline()
            if not said:
                raise ConnectionError("it has closed the connection")
            answer = json.loads(said)
        except (OSError, ValueError) as error:
            # What it may still say would be taken for the answer to the next question.
            self.close()
            raise UnitError(f"the unit does not answer: {error}") from error
        if "error" in answer:
            raise UnitError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        self._file.close()
        self._socket.close()
