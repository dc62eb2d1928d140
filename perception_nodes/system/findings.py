"""What this machine has, what it lacks, and the remedy: the operating system's part."""

import os
import resource
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from perception_nodes.system.preemption import AT_ONCE, kernel_preemption
from perception_nodes.system.realtime import allowed_priority

NEEDED_SHM_BYTES = 512_000_000


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        subject: what was checked.
        ok: whether it is as it should be.
        found: what was found.
        remedy: what to do if it is not.
        needed: whether the default pipeline needs it.
    """

    subject: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


def python_version() -> Finding:
    """Whether the nodes run on this Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    known = (3, 10) <= sys.version_info[:2] <= (3, 14)
    return Finding("Python", known, version, "install Python 3.10 to 3.14")


def shared_memory(folder: Path) -> Finding:
    """Whether the folder of shared memory has room for a graph."""
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / 1e6:.0f} of {usage.total / 1e6:.0f} MB free"
    remedy = f"mount -o remount,size=2G {folder} (in a container: --shm-size=2g)"
    return Finding(str(folder), usage.free >= NEEDED_SHM_BYTES, found, remedy)


def real_time() -> Finding:
    """Which real-time priority this user may have."""
    priority = allowed_priority()
    found = f"SCHED_FIFO {priority} for the detector" if priority else "SCHED_FIFO is not allowed"
    throttle = Path("/proc/sys/kernel/sched_rt_runtime_us")
    if throttle.is_file() and throttle.read_text(encoding="ascii").strip() == "-1":
        found += ", without the kernel's limit of 95 % (kernel.sched_rt_runtime_us=-1)"
    remedy = "add '@realtime - rtprio 98' to /etc/security/limits.conf"
    return Finding("real-time priority", priority > 0, found, remedy, needed=False)


def preemption() -> Finding:
    """Whether the kernel lets a real-time thread run at once."""
    model = kernel_preemption()
    remedy = "boot with preempt=full; until then real-time threads wait for others' system calls"
    return Finding(
        "kernel preemption", model in (*AT_ONCE, ""), model or "unknown", remedy, needed=False
    )


def memory_lock() -> Finding:
    """Whether this user may keep memory resident."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    allowed = os.geteuid() == 0 or limit < 0 or limit >= 1 << 30
    found = "unlimited" if limit < 0 else f"{limit / 1e6:.0f} MB"
    remedy = "add '@realtime - memlock unlimited' to /etc/security/limits.conf"
    return Finding("memory locking", allowed, found, remedy, needed=False)
