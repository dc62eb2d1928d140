"""The unit under test: its orders, what it refuses, and what is left when a bench dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest
from made_runs import scenario
from observe import children, until

from perception_nodes.faults import unit as unit_module
from perception_nodes.faults.address import PORT, is_loopback, joined_address, split_address
from perception_nodes.faults.clock_offset import measure_offset
from perception_nodes.faults.unit import PROTOCOL, TOKEN_VARIABLE, RemoteUnit, UnitError, UnitServer
from perception_nodes.graph.settings import SettingsError

VALUES = {"backend": "null", "standby": "never"}
TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)


@pytest.fixture
def unit():
    """A unit in a process of its own, and its address."""
    command = [sys.executable, "-m", "perception_nodes", "hil", "unit", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1)
    try:
        yield process, process.stderr.readline().split()[-1]
    finally:
        process.send_signal(signal.SIGINT)  # what it runs must end with it
        process.communicate(timeout=300)
    assert process.returncode == 130


@pytest.fixture
def served(monkeypatch):
    """A unit in this process, which runs no graph."""
    server = UnitServer("127.0.0.1", 0, {})
    monkeypatch.setattr(server._server, "handle_error", lambda *_: pytest.fail("a traceback"))
    thread = threading.Thread(target=server._server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server._server.shutdown()
    thread.join()
    server._server.server_close()
    server._files.cleanup()


def test_orders_to_a_unit_and_ctrl_c(unit):
    process, address = unit
    with RemoteUnit(address) as remote:
        offset = measure_offset(remote.clock)
        assert abs(offset.offset_ms) <= offset.error_ms < 1000  # it is one clock
        with pytest.raises(UnitError, match="^parameter deadline_ms: 0 is not allowed"):
            remote.start(scenario(), {"deadline_ms": 0})
        with pytest.raises(UnitError, match="object has no attribute"):
            remote._order("reboot")
        assert (remote.failure(), remote.stop()) == ("", "")
        with pytest.raises(UnitError, match="does not answer: NotConnected"):
            remote.failure()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130


def exchange(address, sent):
    with socket.create_connection(split_address(address), timeout=300) as peer:
        peer.sendall(sent)
        received = b""
        while piece := peer.recv(65536):
            received += piece
        return received


def post(*headers, order="clock"):
    """An order as bytes, without a body."""
    return "\r\n".join((f"POST /{order} HTTP/1.1", *headers, "", "")).encode()


AGENT, WITH_TOKEN = f"User-Agent: {PROTOCOL}", f"Authorization: Bearer {TOKEN}"
NO_TOKEN = b"$PERCEPTION_HIL_TOKEN of the bench is not that of the unit"
LENGTH = b"an order needs a Content-Length of at most 6 digits"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\xfc\x03\x03 \r\n\r\n", b"Bad "),
        (b"GET / HTTP/1.1\r\n\r\n", b"Unsupported method ('GET')"),
        (b"A" * 70_000, b"URI Too Long"),
        (post("Content-Length: 2") + b"[]", b"the bench 'nothing known'"),
        (post("User-Agent: perception_hil/0"), b"perception_hil/2, the bench 'perception_hil/0'"),
        (post(AGENT, order="stop"), NO_TOKEN),
        (post(AGENT, f"{WITH_TOKEN}0", order="stop"), NO_TOKEN),
        (post(AGENT, WITH_TOKEN), LENGTH),
        (post(AGENT, WITH_TOKEN, "Content-Length: -1"), LENGTH),
        (post(AGENT, WITH_TOKEN, "Content-Length: 1000000"), LENGTH),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_foreign_bytes_are_refused_in_one_line(served, capsys, sent, reason):
    content = exchange(served.address, sent).rpartition(b"\r\n\r\n")[2]
    assert reason in content
    assert content.count(b"\n") == 1
    with RemoteUnit(served.address) as remote:
        remote.clock()
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [b"[1]", b"{", b"[" * 100_000, b"null"], ids=repr)
def test_an_order_with_wrong_arguments_is_refused_and_the_next_one_is_not(served, arguments):
    connection = HTTPConnection(*split_address(served.address), timeout=300)
    for body, status in ((arguments, 422), (b"[]", 200)):
        headers = {"User-Agent": PROTOCOL, "Authorization": f"Bearer {TOKEN}"}
        connection.request("POST", "/clock", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == status
        assert b"\n" not in content
    assert json.loads(content) > 0
    connection.close()


@pytest.mark.ros
@pytest.mark.usefixtures("domain")
def test_a_bench_that_dies_leaves_no_graph_and_a_second_one_takes_the_unit(unit):
    process, address = unit
    code = (
        "import sys, time; from test_unit import *; unit = RemoteUnit(sys.argv[1]); "
        "unit.start(scenario(), VALUES); print('started', flush=True); time.sleep(99)"
    )
    bench = subprocess.Popen(
        [sys.executable, "-c", code, address],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), *sys.path))},
    )
    bench.stdout.readline()
    until(lambda: len(children(process.pid)) >= 3)
    bench.kill()
    bench.communicate()
    until(lambda: not children(process.pid))
    with RemoteUnit(address) as first, RemoteUnit(address) as second:
        first.start(scenario(), VALUES)
        assert first.failure() == ""
        second.start(scenario(), VALUES)
        assert first.failure() == "another bench has taken the unit"
        assert second.failure() == ""
    # Ctrl-C comes while the graph is stopped, and ends the unit all the same.


def test_a_graph_ends_with_a_bench_that_falls_silent_while_it_runs_and_not_before_it_starts(
    served, monkeypatch
):
    stopped: list[str] = []
    monkeypatch.setattr(unit_module._Connection, "timeout", 0.2)
    monkeypatch.setattr(served, "start", lambda *_: "a graph")
    monkeypatch.setattr(served, "stop", stopped.append)
    assert exchange(served.address, b"POST /clock HTTP/1.1\r\nHost: half") == b""
    with RemoteUnit(served.address) as remote:
        time.sleep(0.5)  # the drive is prepared
        remote.start(scenario(), VALUES)
        assert stopped == []
        until(lambda: stopped == ["a graph"])
        with pytest.raises(UnitError, match="does not answer"):
            remote.failure()


def test_addresses():
    for text, address in {
        "bench": ("bench", PORT),
        "10.0.0.1:80": ("10.0.0.1", 80),
        "10.0.0.1:0": ("10.0.0.1", 0),
        "[::1]:80": ("::1", 80),
        "[fe80::1%eth0]": ("fe80::1%eth0", PORT),
        "::1": ("::1", PORT),
    }.items():
        assert split_address(text) == address
        assert split_address(joined_address(*address)) == address
    for text in ("", ":1", "a:", "a:99999", "a:²", "a:-1", "[::1", "[]:1", "a/b:1"):
        with pytest.raises(SettingsError, match="HOST:PORT"):
            split_address(text)
    hosts = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "bench")
    assert [is_loopback(host) for host in hosts] == [True, True, True, False, False]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", ""),
        (b"SSH-2.0-OpenSSH_9\r\n", ".*SSH-2.0"),
        (
            b"HTTP/1.1 404 No\r\nServer: x\r\nContent-Length: 0\r\n\r\n",
            ".*it speaks 'x', the bench perception_hil",
        ),
    ],
    ids=["silence", "ssh", "http"],
)
def test_what_is_no_unit_or_has_ended_is_named_at_every_question(host, said, reason):
    try:
        server = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else 2)
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    with server, RemoteUnit(joined_address(host, server.getsockname()[1])) as unit:
        with server.accept()[0] as peer:
            peer.sendall(said)
            peer.shutdown(socket.SHUT_WR)
            with pytest.raises(UnitError, match=f"the unit at .* does not answer{reason}"):
                unit.clock()
        with pytest.raises(UnitError, match="the unit at .* does not answer"):
            unit.clock()
    server.close()
    with pytest.raises(UnitError, match="start it there with: perception hil unit"):
        RemoteUnit(unit._address, within_s=0)


@pytest.mark.parametrize("given", ["", "short"])
def test_a_unit_without_a_token_does_not_listen(monkeypatch, given):
    monkeypatch.setenv(TOKEN_VARIABLE, given)
    with pytest.raises(UnitError, match="at least 16 characters"):
        UnitServer("127.0.0.1", 0, {})
