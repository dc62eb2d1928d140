"""One graph of a name in a ROS domain: its supervisor holds what the kernel frees when it ends.

A lock on a file keeps out processes that share our shared memory; its time is a sign of life. An
abstract socket keeps out those that share our network alone, such as another container's, and holds
even where somebody removes the file.
"""

import fcntl
import os
import socket
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from perception_nodes.transport.domain import own_domain
from perception_nodes.transport.lock import Locked, has_name, open_locked
from perception_nodes.transport.memory import NAMESPACE, SHM_FOLDER, TransportError


def silence_ns(camera: str, now_ns: int) -> int:
    """How long the process that claims a name has given no sign of life; 0 if it never has.

    Without the file of its claim it can give none.
    """
    path = _path_of(claim_of(camera, os.environ.get(NAMESPACE, "")))
    with suppress(FileNotFoundError):
        return max(0, now_ns - path.stat().st_mtime_ns)
    return now_ns


def claim_of(camera: str, namespace: str) -> str:
    """The name of the claim to a camera's graph in a ROS namespace."""
    return f"{namespace}/{camera}".lstrip("/")


def _path_of(name: str) -> Path:
    return SHM_FOLDER / f"perception_graph{own_domain()}_{name.replace('/', '.')}.lock"


class Claim:
    """This process's exclusive right to a name, until it is released.

    Attributes:
        path: of the locked file.
    """

    def __init__(self, name: str, meaning: str) -> None:
        """Claim it.

        Args:
            name: a camera's, or the full one of a node.
            meaning: what a process that holds it runs.

        Raises:
            TransportError: another process holds it, or the file cannot be opened or is another
                user's.
        """
        # Not a name that `remains.sweep` removes, which may run before our nodes do.
        self.path, holder = _path_of(name), ""
        try:
            self._descriptor = open_locked(self.path, fcntl.LOCK_EX)
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.bind(b"\0perception" + sha256(self.path.name.encode()).digest())
        except Locked:
            holder = f"process {self._holder()}"
        except OSError:
            self.release()
            holder = "an unseen process, perhaps in another container on this one's network,"
        if holder:
            raise TransportError(
                f"{holder} runs {meaning} in ROS domain {own_domain()} already; stop it, or choose "
                "another camera:=, namespace or ROS_DOMAIN_ID"
            )
        with suppress(OSError):  # remains of a killed graph may fill the shared memory
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def _holder(self) -> str:
        """The process that holds it, which writes its number after locking the file."""
        with suppress(FileNotFoundError):
            return self.path.read_text() or "(starting)"
        return "(ending)"

    @property
    def stands(self) -> bool:
        """Whether nobody has removed the file: another process could claim the name then."""
        return has_name(self._descriptor, self.path)

    def sign(self) -> None:
        """Give a sign of life: CLOCK_MONOTONIC as the time of the file."""
        now_ns = time.monotonic_ns()
        with suppress(OSError):
            os.utime(self._descriptor, ns=(now_ns, now_ns))

    def release(self) -> None:
        """Give it up."""
        self._socket.close()
        if self.stands:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
