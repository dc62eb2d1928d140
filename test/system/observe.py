"""What a test sees of others, which have no way to wake it."""

import socket
import time
from pathlib import Path


def until(
    condition, within_s=300.0, why=lambda: "nothing happened", meanwhile=lambda: time.sleep(0.005)
):
    """Wait until it is so; after `within_s` seconds fail, and say why."""
    give_up_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_s, why()
        meanwhile()


def is_alive(process):
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def children(process):
    """Its processes; dead ones that it has not waited for are included."""
    try:
        return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))
    except (FileNotFoundError, ProcessLookupError):
        return []


def free_port():
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
