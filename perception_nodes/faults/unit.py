"""The unit under test: the graph of the vehicle, started and disturbed by the orders of a bench.

`perception hil unit` serves on the vehicle computer; `RemoteUnit` is its client, on the bench. An
order is an HTTP POST of JSON. The standard library's HTTP server reads with limits and timeouts;
with `multiprocessing.connection` one silent peer would keep the bench out. JSON holds the 64-bit
integers of a clock, which `xmlrpc` does not. Nothing that arrives is unpickled. Orders start
processes here, so each carries a token that only the bench has.
"""

import hmac
import json
import os
import queue
import socket
import socketserver
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from perception_nodes.core.errors import PerceptionError
from perception_nodes.faults.address import joined_address, split_address
from perception_nodes.faults.inject import NotInjected, UnderTest, put_in, with_faulty_backend
from perception_nodes.faults.scenario import Fault, RebootFault, Scenario
from perception_nodes.faults.scratch import scratch_folder
from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.page import MIN_TOKEN
from perception_nodes.graph.supervisor import GraphFailure, Supervisor
from perception_nodes.system.signals import check_end
from perception_nodes.transport.domain import own_domain, own_prefix
from perception_nodes.transport.memory import SHM_FOLDER

PROTOCOL = "perception_hil/2"
"""Sent with every order and every answer. The number grows when the orders change."""
TOKEN_VARIABLE = "PERCEPTION_HIL_TOKEN"
"""The token, for unit and bench: an environment variable, which other users cannot read."""
LENGTH_DIGITS = 6
"""An order is shorter than a megabyte."""
LOG_BYTES = 1 << 20
"""So many of the last bytes that the nodes have logged are sent to the bench."""
SILENCE_S = 20.0
"""The graph is stopped after this time without an order. A living bench asks twice a second; one
that lost its power or its cable closes no connection."""
CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 20.0
ANSWER_BYTES = 8 << 20
POLL_S = 0.1
_FAULTS: TypeAdapter[tuple[Fault, ...]] = TypeAdapter(tuple[Fault, ...])


class UnitError(PerceptionError):
    """The unit cannot be reached, or could not carry out an order; one line that says why."""


@dataclass
class GraphRun:
    """A graph that a bench has ordered.

    Attributes:
        specs, camera: its processes, and the name of its camera.
        target: the graph that faults are put into; None while it is not running.
        dark_s: time until a reboot starts the graph again; set by the reboot.
        failure: the reason why the graph ended by itself.
        stopping, over: set when the graph is to stop, and when it has ended.
    """

    specs: list[NodeSpec]
    camera: str
    target: UnderTest | None = None
    dark_s: float | None = None
    failure: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


class UnitServer:
    """Serves one bench at a time; a new graph replaces the one before."""

    def __init__(self, host: str, port: int, values: Mapping[str, Any]) -> None:
        """Listen.

        Args:
            host: address to listen on.
            port: 0 for any.
            values: parameters of the graph that take precedence over those of a scenario.

        Raises:
            UnitError: the address cannot be used, or there is no token.
        """
        if len(os.environ.get(TOKEN_VARIABLE, "")) < MIN_TOKEN:
            raise UnitError(
                f"${TOKEN_VARIABLE} must have at least {MIN_TOKEN} characters: export "
                f"{TOKEN_VARIABLE}=$(openssl rand -hex 16), on the bench too"
            )
        self._values = dict(values)
        self._ordered: queue.SimpleQueue[GraphRun] = queue.SimpleQueue()
        self._current: GraphRun | None = None
        self._starting = threading.Lock()
        self._files = scratch_folder()
        self._orders = Path(self._files.name) / "orders.json"
        self._log = Path(self._files.name) / "nodes.log"
        try:
            self._server = _Server((host, port), _Connection)
        except (OSError, UnicodeError) as error:
            self._files.cleanup()
            raise UnitError(f"cannot listen on {joined_address(host, port)}: {error}") from error
        self._server.unit = self
        self.address = joined_address(host, self._server.socket.getsockname()[1])

    def run(self) -> None:
        """Serve in the main thread, since nodes die with the thread that starts them.

        Raises:
            KeyboardInterrupt: Ctrl-C, which alone ends it; all that it started is stopped then.
        """
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        try:
            while True:
                ordered = self._ordered.get()
                self._run_graph(ordered)
                ordered.over.set()
        finally:
            self._server.shutdown()
            self._server.server_close()
            self._files.cleanup()

    def start(self, domain: str, values: Mapping[str, Any], faults: list[Any]) -> GraphRun:
        """Stop the graph that runs, and order another one; does not wait for it to start.

        Raises:
            SettingsError, TransportError: the parameters or the domain cannot be used.
        """
        with self._starting:
            if self._current is not None:
                self._current.failure = self._current.failure or "another bench has taken the unit"
                self.stop(self._current)
            os.environ["ROS_DOMAIN_ID"] = domain
            own_domain()
            chosen = {**values, **self._values}
            put_in = _FAULTS.validate_python(faults)
            specs = with_faulty_backend(LIVE.nodes(chosen), put_in, self._orders)
            self._current = GraphRun(specs, str(chosen.get("camera", "front")))
            self._ordered.put(self._current)
            return self._current

    def put_in(self, fault: Any) -> None:
        """Put a fault into the graph, and return when the fault or the graph is over.

        Raises:
            NotInjected: it cannot be put in.
        """
        (checked,) = _FAULTS.validate_python([fault])
        running = self._current
        if running is None or running.target is None:
            raise NotInjected("no graph runs")
        if not isinstance(checked, RebootFault):
            put_in(checked, running.target, running.over.wait)
            return
        graph, running.dark_s = running.target.supervisor, checked.for_s
        graph.stop()
        for _, process in graph.processes:
            process.kill()
        running.over.wait(checked.for_s)

    def stop(self, graph: GraphRun) -> str:
        """Stop a graph, wait for its end, and return the last of what its nodes logged."""
        graph.stopping.set()
        while not graph.over.wait(POLL_S):
            if graph.target is not None:
                graph.target.supervisor.stop()
        return self._log.read_bytes()[-LOG_BYTES:].decode(errors="replace")

    def _run_graph(self, ordered: GraphRun) -> None:
        """Run a graph until it is to stop; a reboot starts it again."""
        with self._log.open("wb") as log:
            while not ordered.stopping.is_set():
                try:
                    with Supervisor(ordered.specs, log=log) as graph:
                        ordered.target = UnderTest(graph, ordered.camera, self._orders)
                        graph.wait()
                except GraphFailure as error:
                    ordered.failure = str(error)
                ordered.target = None
                check_end()  # the signal reached the supervisor of the graph
                if ordered.dark_s is None:
                    return
                dark_s, ordered.dark_s = ordered.dark_s, None
                _clear_shared_memory()
                ordered.stopping.wait(dark_s)


def _clear_shared_memory() -> None:
    """Remove what the graph holds in shared memory, which does not outlive a reboot."""
    for left in SHM_FOLDER.glob(f"{own_prefix()}*"):
        with suppress(OSError):  # a file of another user
            left.unlink()


class _Server(socketserver.ThreadingTCPServer):
    # http.server's own class would ask a name server for its host name before it listens.
    allow_reuse_address = True
    daemon_threads = True
    unit: UnitServer

    def __init__(self, address: tuple[str, int], handler: type["_Connection"]) -> None:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__(address, handler)


class _Connection(BaseHTTPRequestHandler):
    """A connection of a bench. The graph that was started through it ends with it."""

    protocol_version = "HTTP/1.1"
    timeout = SILENCE_S
    wbufsize = -1  # an answer is sent in one packet, since it may be the time of the clock
    disable_nagle_algorithm = True
    error_message_format = "%(message)s\n"
    error_content_type = "text/plain"
    server: _Server
    started: GraphRun | None = None

    def handle(self) -> None:
        with suppress(OSError):  # the bench is gone
            try:
                super().handle()
            finally:
                self._on_stop()

    def do_POST(self) -> None:
        order, length = self.path.removeprefix("/"), self.headers.get("Content-Length", "")
        bench = self.headers.get("User-Agent", "nothing known")[:40]
        token = self.headers.get("Authorization", "").encode()
        if bench != PROTOCOL:
            reason = f"the unit speaks {PROTOCOL}, the bench {bench!r}: install the same version"
            return self.send_error(HTTPStatus.BAD_REQUEST, reason)
        if not hmac.compare_digest(token, _credential()):
            reason = f"${TOKEN_VARIABLE} of the bench is not that of the unit"
            return self.send_error(HTTPStatus.UNAUTHORIZED, reason)
        if not length.isdecimal() or len(length) > LENGTH_DIGITS:
            reason = f"an order needs a Content-Length of at most {LENGTH_DIGITS} digits"
            return self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
        status, text = self._answer(order, self.rfile.read(int(length)))
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, order: str, arguments: bytes) -> tuple[HTTPStatus, str]:
        """Answer with the result as JSON, or with a line that says why there is none."""
        try:
            return HTTPStatus.OK, json.dumps(getattr(self, f"_on_{order}")(*json.loads(arguments)))
        except Exception as error:  # any error must reach the bench
            known = isinstance(error, PerceptionError)
            reason = str(error) if known else f"{type(error).__name__}: {error}"
            return HTTPStatus.UNPROCESSABLE_ENTITY, " ".join(reason.split())

    def _on_clock(self) -> int:
        return time.time_ns()  # CLOCK_REALTIME

    def _on_start(self, domain: str, values: dict[str, Any], faults: list[Any]) -> None:
        self.started = self.server.unit.start(domain, values, faults)

    def _on_put_in(self, fault: Any) -> None:
        self.server.unit.put_in(fault)

    def _on_failure(self) -> str:
        return "" if self.started is None else self.started.failure

    def _on_stop(self) -> str:
        return "" if self.started is None else self.server.unit.stop(self.started)

    def version_string(self) -> str:
        return PROTOCOL

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing: only refusals are logged."""


def _credential() -> bytes:
    """What an order carries in its header `Authorization`."""
    return f"Bearer {os.environ.get(TOKEN_VARIABLE, '')}".encode()


class RemoteUnit(AbstractContextManager["RemoteUnit"]):
    """Gives orders to a unit on another machine or in another namespace; a context manager."""

    def __init__(self, address: str, within_s: float = CONNECT_TIMEOUT_S) -> None:
        """Connect to HOST or HOST:PORT, where the unit may still be starting.

        Raises:
            SettingsError: the text is no address.
            UnitError: nothing answers.
        """
        host, port = split_address(address)
        self._address, self._one_order = joined_address(host, port), threading.Lock()
        self._connection = HTTPConnection(host, port, timeout=ANSWER_TIMEOUT_S)
        self._connection.auto_open = 0  # the graph ends with the connection; a new one has none
        self._connect(within_s)

    def clock(self) -> int:
        """The unit's CLOCK_REALTIME, nanoseconds."""
        return int(self._order("clock"))

    def start(self, scenario: Scenario, values: Mapping[str, Any]) -> None:
        """Start the graph there.

        Raises:
            UnitError: it cannot be started.
        """
        # Connect anew: a unit closes the connection if preparing the drive takes long.
        self._connect(CONNECT_TIMEOUT_S)
        faults = [fault.model_dump() for fault in scenario.faults]
        self._order("start", os.environ.get("ROS_DOMAIN_ID") or "0", dict(values), faults)

    def put_in(self, fault: Fault) -> None:
        """Put a fault in there, and return when it is over; for a thread of its own.

        Raises:
            NotInjected: it cannot be put in.
        """
        try:
            # This connection serves other orders meanwhile.
            with RemoteUnit(self._address) as other:
                other._connection.sock.settimeout(fault.for_s + ANSWER_TIMEOUT_S)
                other._order("put_in", fault.model_dump())
        except UnitError as error:
            raise NotInjected(str(error)) from error

    def failure(self) -> str:
        """Why the graph there ended by itself; empty where it did not."""
        return str(self._order("failure"))

    def stop(self) -> str:
        """Stop the graph there, and leave; returns the last of what its nodes wrote."""
        log = str(self._order("stop"))
        self._connection.close()
        return log

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _connect(self, within_s: float) -> None:
        self._connection.close()
        deadline_s = time.monotonic() + within_s
        while self._connection.sock is None:
            try:
                self._connection.connect()
            except (OSError, UnicodeError) as error:
                if time.monotonic() > deadline_s:
                    raise UnitError(
                        f"no unit answers at {self._address}: {error}; start it there with: "
                        "perception hil unit --listen HOST"
                    ) from error
                time.sleep(POLL_S)

    def _order(self, order: str, *arguments: Any) -> Any:
        try:
            with self._one_order:
                headers = {"User-Agent": PROTOCOL, "Authorization": _credential().decode()}
                self._connection.request("POST", f"/{order}", json.dumps(arguments), headers)
                answer = self._connection.getresponse()
                content = answer.read(ANSWER_BYTES).decode()
            unit = answer.getheader("Server", "nothing known")
            if unit != PROTOCOL:
                raise ValueError(f"it speaks {unit[:40]!r}, the bench {PROTOCOL}")
            if answer.status == HTTPStatus.OK:
                return json.loads(content)
        except (OSError, HTTPException, RecursionError, ValueError) as error:
            # A late answer would be taken for the answer to the next order.
            self._connection.close()
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnitError(
                f"the unit at {self._address} does not answer: {reason}; it must run there, in "
                "the version of the bench"
            ) from error
        raise UnitError(" ".join(content.split()) or f"the unit answers {answer.status}")
