"""A running graph, attacked by another user of its machine."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from channel_ends import remains
from other_user import NOBODY, needs_root, opened_by
from started_graph import only_run

from perception_nodes.transport.fastdds import PREFIXES

pytestmark = [pytest.mark.ros, needs_root]
OF_LIBRARIES = (
    "/dev/shm/lttng-ust-wait-",
    *(f"/dev/shm/{semaphore}{prefix}" for semaphore in ("", "sem.") for prefix in PREFIXES),
)
"""Tracing of ROS, and Fast DDS's own shared memory: docs/security.md says what is in them."""


def open_files(process):
    """What the descriptors of a process stand for."""
    links = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.add(os.readlink(entry))
    return links


def shared_files(process):
    """Files in shared memory that a process has open or mapped."""
    mapped = Path(f"/proc/{process}/maps").read_text().splitlines()
    shared = (line.split(maxsplit=5)[5] for line in mapped if " /dev/shm/" in line)
    found = {*open_files(process), *shared}
    return {path for path in found if path.startswith("/dev/shm/") and os.path.exists(path)}


@only_run
@pytest.mark.parametrize("source", ["shm", "dds"])
def test_another_user_opens_none_of_its_files_and_no_network_reaches_it(start, domain, source):
    """DDS needs ports; nothing accepts connections, and no port is open to a network."""
    graph = start("backend:=null", "standby:=always", "tracks:=true", f"source:={source}")
    nodes = graph.until_ready()
    processes = (graph.supervisor(), *nodes.values())
    files = {path for process in processes for path in shared_files(process)}
    files |= {path for path in remains(domain) if path.endswith(".event")}
    ours = [Path(path) for path in files if not path.startswith(OF_LIBRARIES)]
    assert len(ours) > 30
    assert opened_by(0, ours) == {str(path) for path in ours}
    assert opened_by(NOBODY, ours) == set()

    opened = {link for process in processes for link in open_files(process)}
    bound = {
        (protocol, fields[1].rpartition(":")[0])
        for protocol in ("udp", "udp6", "tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/net/{protocol}").read_text().splitlines()[1:])
        if f"socket:[{fields[9]}]" in opened
    }
    assert bound == {("udp", "0100007F")}  # 127.0.0.1
