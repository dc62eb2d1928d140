"""The state of its life cycle to which a node was last commanded, for the process after it."""

import ctypes

from perception_nodes.system.life import graph_life, is_supervised
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, Mapped


class CommandedState(ctypes.Structure):
    """The number of a primary state, 0 without a command; `life` is the life of its graph."""

    _fields_ = [("life", ctypes.c_uint64), ("state", ctypes.c_uint64)]


class Commanded:
    """Keeps the state for as long as the graph lives.

    A node without a supervisor is not restarted, so nothing is kept for it.
    """

    def __init__(self, camera: str, node: str) -> None:
        """Open the file.

        Args:
            camera: the first one that the node serves.
            node: its full name.

        Raises:
            TransportError: the file is another user's.
        """
        name = f"{own_prefix()}{camera}.{node.strip('/').replace('/', '.')}.state"
        self._mapped = Mapped(SHM_FOLDER / name, CommandedState, is_shared=is_supervised())

    @property
    def state(self) -> int:
        """Number of the state; 0 if there was no command in this life of the graph."""
        kept = self._mapped.value
        return int(kept.state) if kept.life == graph_life() else 0

    def keep(self, state: int) -> None:
        """Keep a state that is commanded."""
        self._mapped.value.life, self._mapped.value.state = graph_life(), state

    def close(self) -> None:
        """Close the file, which stays."""
        self._mapped.close()
