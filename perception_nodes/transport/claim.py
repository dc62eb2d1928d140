"""One graph of a name in a ROS domain: its supervisor holds a lock that the kernel frees."""

import fcntl
import os
from pathlib import Path

from perception_nodes.transport.domain import own_domain
from perception_nodes.transport.memory import SHM_FOLDER, TransportError, open_own


class Claim:
    """This process's exclusive right to a name, until it is released."""

    def __init__(self, name: str, meaning: str, folder: Path = SHM_FOLDER) -> None:
        """Claim it.

        Args:
            name: a camera's, or the full one of a node.
            meaning: what the process runs that holds it.
            folder: contains a file for each claim. The files' names differ from those that
                `domain.sweep` removes, which may run in another process before ours has nodes.

        Raises:
            TransportError: another process holds it, or the file cannot be opened or is another
                user's.
        """
        domain = own_domain()
        self._path = folder / f"perception_graph{domain}_{name.replace('/', '.')}.lock"
        while True:
            try:
                self._descriptor = open_own(self._path, os.O_RDWR | os.O_CREAT)
            except OSError as error:
                raise TransportError(f"{self._path}: {error.strerror}") from error
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self._descriptor, 20, 0).decode() or "(starting)"
                os.close(self._descriptor)
                raise TransportError(
                    f"process {holder} runs {meaning} in ROS domain {domain} already; stop it, or "
                    "choose another camera:=, namespace or ROS_DOMAIN_ID"
                ) from None
            if self._is_current():
                break
            os.close(self._descriptor)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def _is_current(self) -> bool:
        """Whether the locked file is still the one of that name: its last holder removes it."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give it up."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
