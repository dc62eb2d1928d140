"""Processes that do not outlive the one that starts them."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perception_nodes.system.environment import die_with_parent

STOP_TIMEOUT_S = 30.0
"""A process that ends its graph in order gets this long; then it is killed."""
NOTHING: Mapping[str, str] = {}


def start(
    command: Sequence[str],
    environment: Mapping[str, str] = NOTHING,
    begin: Callable[[], object] = lambda: None,
    **streams: Any,
) -> "subprocess.Popen[bytes]":
    """Start a process that the kernel kills when this one ends.

    It runs in a session of its own, so Ctrl-C reaches only this process, which then ends the other.

    Args:
        command: what to run.
        environment: further environment variables.
        begin: called in the new process before it becomes the command.
        streams: `stdout` and `stderr`, as for `subprocess.Popen`.
    """
    us = os.getpid()

    def prepare() -> None:
        die_with_parent(us)
        begin()

    return subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=prepare,
        **streams,
    )


def end(
    process: "subprocess.Popen[bytes]",
    timeout_s: float = STOP_TIMEOUT_S,
    # A script that runs in the background ignores SIGINT, and so does what it starts.
    number: int = signal.SIGTERM,
) -> bytes:
    """Ask a process to end, give it time to clean up, and return its output."""
    process.send_signal(number)
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # kill its children too, which may hold its pipes
        output, _ = process.communicate()
    return output or b""
