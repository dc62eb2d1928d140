"""Keeps processors from going to sleep between frames, since they take long to wake.

On hardware the kernel does it (PM QoS, `/dev/cpu_dma_latency`). The kernel of a virtual machine
cannot keep the host from putting processors to sleep. So a process that never sleeps runs on each
of them there; its policy SCHED_IDLE gives way to every other process.
"""

import os
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from perception_nodes.system.children import start
from perception_nodes.system.processes import cpu_flags
from perception_nodes.system.realtime import give_way

LATENCY_DEVICE = Path("/dev/cpu_dma_latency")
SPIN = ["/bin/sh", "-c", "while :; do :; done"]


@contextmanager
def kept_awake(processors: Collection[int], device: Path = LATENCY_DEVICE) -> Iterator[str]:
    """A context in which processors stay awake; gives a line that says by what.

    Args:
        processors: where to run processes if the kernel cannot keep all processors awake.
        device: the kernel's device for PM QoS.
    """
    how = str(device)
    with ExitStack() as held:
        if not _does_kernel(device, held):
            how = f"{len(processors)} idle processes"
            for processor in sorted(processors):
                spinner = start(SPIN)
                held.callback(spinner.wait)
                held.callback(_hurry, spinner.pid)
                held.callback(spinner.kill)
                os.sched_setaffinity(spinner.pid, {processor})
                give_way(spinner.pid)
        yield f"processors stay awake by {how}"


def _hurry(process: int) -> None:
    """Let a process that was killed end at once: on a busy machine an idle one waits for that."""
    with suppress(OSError):  # it has ended, or real time is not allowed
        os.sched_setscheduler(process, os.SCHED_FIFO, os.sched_param(1))


def _does_kernel(device: Path, held: ExitStack) -> bool:
    """Whether the kernel keeps all processors awake until `held` is closed."""
    if is_virtual_machine():
        return False
    try:
        descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        held.callback(os.close, descriptor)
        os.write(descriptor, struct.pack("i", 0))
    except OSError:
        return False
    return True


def is_virtual_machine() -> bool:
    """Whether a host decides when our processors sleep."""
    return "hypervisor" in cpu_flags() or Path("/proc/device-tree/hypervisor").exists()
