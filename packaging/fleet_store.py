"""An object store for the machines of `fleet_test.py`: OpenStack Swift with its S3 interface.

Between machines and store is a proxy that can be told to fail as stores and networks do.
"""

import http.client
import re
import secrets
import socket
import time
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Lock, Thread

from fleet_machines import Failed, Machine, wait_until

PYTHON = "/usr/bin/python3"
"""Debian's, which has Swift."""
PORT, PROXY_PORT = 8080, 8081
BLOCK_BYTES = 65536
SLOW_BYTES_PER_S = 3e6
KEY_ID, REGION = "fleet:tester", "us-east-1"
SERVERS = {"account": 6202, "container": 6201, "object": 6200}
START = """
import sys
from swift.common.utils import set_swift_dir
set_swift_dir("/tmp")
from swift.common.wsgi import run_wsgi
sys.exit(run_wsgi(f"/tmp/{sys.argv[1]}.conf", f"{sys.argv[1]}-server", verbose=True))
"""
RING = """
import sys
from swift.common.ring import RingBuilder
name, port = sys.argv[1:]
builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
where = {"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "device": "disk"}
builder.add_dev({**where, "port": int(port)})
builder.rebalance()
builder.get_ring().save(f"/tmp/{name}.ring.gz")
"""
SERVER = """
[DEFAULT]
bind_ip = {ip}
bind_port = {port}
user = root
workers = 0
swift_dir = /tmp
devices = /tmp
mount_check = false
log_level = INFO
"""
PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin
[filter:slo]
use = egg:swift#slo
"""


def start_store(machine: Machine) -> str:
    """Start Swift on a machine; returns the secret of its user."""
    secret = secrets.token_urlsafe(24)
    suffix = secrets.token_urlsafe(8)
    disk = machine.path("/tmp/disk")
    disk.mkdir()
    machine.path("/tmp/swift.conf").write_text(f"[swift-hash]\nswift_hash_path_suffix = {suffix}\n")
    for name, port in SERVERS.items():
        text = SERVER.format(ip="127.0.0.1", port=port)
        text += f"[pipeline:main]\npipeline = {name}-server\n"
        text += f"[app:{name}-server]\nuse = egg:swift#{name}\n"
        machine.path(f"/tmp/{name}.conf").write_text(text)
        if machine.start("store", [PYTHON, "-c", RING, name, str(port)], {}).wait():
            raise Failed(f"no ring was made; see {machine.logs}/store.log")
        machine.start("store", [PYTHON, "-c", START, name], {})
    text = SERVER.format(ip=machine.address, port=PORT)
    text += PROXY.format(region=REGION, user=KEY_ID.replace(":", "_"), secret=secret)
    machine.path("/tmp/proxy.conf").write_text(text)
    machine.start("store", [PYTHON, "-c", START, "proxy"], {})
    wait_until(lambda: _listens(machine.address), 20, "the store answers")
    return secret


def _listens(address: str) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex((address, PORT)) == 0


@dataclass
class Fault:
    """What the proxy does to requests that match.

    Attributes:
        kind: `error` answers 500; `short` breaks off in the middle of a body, also of one that is
            sent; `slow` throttles the answer.
        match: pattern of method and path, as in `GET /bucket/name`.
        every: to each such request, or to every second, third and so on.
        seen: how many matched.
    """

    kind: str
    match: str
    every: int = 1
    seen: int = 0


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests to the store.

    Attributes:
        faults: what to do to requests; the first that applies counts.
        requests: the time of each request, the address it came from, its method and path.
    """

    daemon_threads = True

    def __init__(self, address: str, store: str) -> None:
        super().__init__((address, PROXY_PORT), _Request)
        self.url, self.store = f"http://{address}:{PROXY_PORT}", store
        self.faults: list[Fault] = []
        self.requests: list[tuple[float, str, str]] = []
        self._lock = Lock()
        Thread(target=self.serve_forever, daemon=True).start()

    def fault_for(self, client: str, request: str) -> str:
        """Note a request; returns what to do to it, empty for nothing."""
        with self._lock:
            self.requests.append((time.monotonic(), client, request))
            for fault in self.faults:
                if re.match(fault.match, request):
                    fault.seen += 1
                    if fault.seen % fault.every == 0:
                        return fault.kind
        return ""

    def handle_error(self, *_: object) -> None:
        """Say nothing of a client or a store that has gone."""


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault_for(self.client_address[0], f"{self.command} {self.path}")
        if fault == "error":
            self.send_response_only(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "short" and body:
            body = body[: len(body) // 2]
        with closing(http.client.HTTPConnection(self.server.store, PORT, timeout=60)) as store:
            store.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                store.putheader(name, value)
            store.endheaders(body)
            self.close_connection = fault == "short"
            if not (fault == "short" and body):
                self._answer(store.getresponse(), fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _do

    def _answer(self, answer: http.client.HTTPResponse, fault: str) -> None:
        headers = [one for one in answer.getheaders() if one[0].lower() != "transfer-encoding"]
        if answer.chunked:  # a small one
            body = BytesIO(answer.read())
            left = body.getbuffer().nbytes
            headers.append(("Content-Length", str(left)))
        else:
            body, left = answer, answer.length or 0
        self.send_response_only(answer.status)
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        if fault == "short":
            left //= 2
        while block := body.read(min(BLOCK_BYTES, left)):
            self.wfile.write(block)
            left -= len(block)
            if fault == "slow":
                time.sleep(len(block) / SLOW_BYTES_PER_S)

    def log_message(self, *_: object) -> None:
        """Keep no log; the test looks at `requests`."""
