"""Load on purpose: processes that keep processors busy."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from perception_nodes.system.environment import die_with_parent


@contextmanager
def busy(cores: Sequence[int]) -> Iterator[None]:
    """A context in which processors are busy: a process that never sleeps is pinned to each."""
    us = os.getpid()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for core in cores:
            process = subprocess.Popen(
                [sys.executable, "-S", "-c", "while True: pass"],
                preexec_fn=lambda: die_with_parent(us),
            )
            processes.append(process)
            os.sched_setaffinity(process.pid, {core})
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
