"""Keeps processors from going to sleep between frames, since they take long to wake.

On hardware the kernel does it (PM QoS, `/dev/cpu_dma_latency`). The processors of a virtual machine
are put to sleep by the host, which the guest's kernel cannot forbid: there a process that never
sleeps runs on each of them, of a policy (SCHED_IDLE) that gives way to every other process.
"""

import os
import struct
import subprocess
from collections.abc import Collection
from pathlib import Path

from perception_nodes.system.environment import die_with_parent
from perception_nodes.system.processes import cpu_flags
from perception_nodes.system.realtime import give_way

LATENCY_DEVICE = Path("/dev/cpu_dma_latency")
SPIN = ["/bin/sh", "-c", "while :; do :; done"]


class AwakeProcessors:
    """Processors that stay awake until they are released."""

    def __init__(self, processors: Collection[int], device: Path = LATENCY_DEVICE) -> None:
        """Keep them awake.

        Args:
            processors: those on which processes run, if the kernel cannot keep all awake.
            device: the kernel's.
        """
        self._descriptor: int | None = None
        self._spinners: list[subprocess.Popen[bytes]] = []
        if not is_virtual_machine():
            try:
                self._descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
                os.write(self._descriptor, struct.pack("i", 0))
                self.how = f"processors stay awake by {device}"
                return
            except OSError:
                self._close_device()
        us = os.getpid()
        for processor in sorted(processors):
            spinner = subprocess.Popen(
                SPIN, start_new_session=True, preexec_fn=lambda: die_with_parent(us)
            )
            self._spinners.append(spinner)
            os.sched_setaffinity(spinner.pid, {processor})
            give_way(spinner.pid)
        self.how = f"processors stay awake by {len(self._spinners)} idle processes"

    def release(self) -> None:
        """Let them sleep again."""
        self._close_device()
        for spinner in self._spinners:
            spinner.kill()
            spinner.wait()
        self._spinners.clear()

    def _close_device(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_virtual_machine() -> bool:
    """Whether a host decides when our processors sleep."""
    return "hypervisor" in cpu_flags() or Path("/proc/device-tree/hypervisor").exists()
