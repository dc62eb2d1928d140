"""What the processes of a graph tell each other: parameters that were changed, lines dropped."""

import ctypes
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from perception_nodes.core.structures import fields
from perception_nodes.system.life import is_supervised
from perception_nodes.system.output import lines_dropped
from perception_nodes.transport.domain import own_prefix
from perception_nodes.transport.memory import SHM_FOLDER, Mapped, TransportError

CONFIGURATION = "PERCEPTION_CONFIGURATION"
"""Environment variable with a hash of all that the nodes of a graph were started with."""
NODES = "PERCEPTION_NODES"
"""Environment variable with the full names of all nodes of a graph."""
CHANGES_BYTES = 4096


class NotesPage(ctypes.Structure):
    """`version` counts changes, and is odd while one is written; `changes` is a JSON mapping."""

    _fields_ = fields(f"uint64 lines_dropped, version; char changes[{CHANGES_BYTES}]")


class Notes:
    """A page for as long as a graph lives; without a supervisor a process shares it with nobody."""

    def __init__(self, camera: str, of_supervisor: bool = False) -> None:
        """Open the page of the graph whose first camera this is.

        Raises:
            TransportError: the page is another user's.
        """
        path = SHM_FOLDER / f"{own_prefix()}{camera}.notes"
        self._mapped = Mapped(path, NotesPage, is_shared=of_supervisor or is_supervised())
        self._seen = 0
        self._changes: dict[str, Any] = {}

    def news(self) -> Mapping[str, Any]:
        """All parameters that were changed, if there are new ones since the last call."""
        before = self._seen
        self._read()
        return self._changes if self._seen != before else {}

    def keep(self, changed: Mapping[str, Any]) -> None:
        """Keep parameters that were changed, for all processes and those after them.

        Raises:
            TransportError: there is no room for them; those before stay.
        """
        page = self._mapped.value
        changes = _parsed(page.changes) | dict(changed)
        text = json.dumps(changes).encode()
        if len(text) > CHANGES_BYTES:
            raise TransportError(f"changes of {len(text)} bytes, {CHANGES_BYTES} have room")
        page.version |= 1  # whoever was killed while it wrote has left an odd number
        self._changes, page.changes = changes, text
        page.version += 1
        self._seen = page.version

    def changes(self) -> Mapping[str, Any]:
        """All parameters that were changed."""
        self._read()
        return self._changes

    def changed(self) -> list[str]:
        """The same, a line each."""
        return [f"{name}:={value}" for name, value in sorted(self.changes().items())]

    def configuration_hash(self) -> int:
        """Identifies all parameters of the graph in 64 bits; 0 where they are not known."""
        if not (started_with := os.environ.get(CONFIGURATION)):
            return 0
        text = "\n".join([started_with, *self.changed()])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def tell_lines_dropped(self) -> None:
        """Tell how many lines of the graph's logs this process has dropped."""
        # Where somebody has cut the file, the supervisor would end, and with it the graph.
        os.ftruncate(self._mapped.descriptor, ctypes.sizeof(NotesPage))
        self._mapped.value.lines_dropped = lines_dropped()

    @property
    def log_lines_dropped(self) -> int:
        """Lines that the supervisor has dropped, or where there is none this process."""
        return int(self._mapped.value.lines_dropped) or lines_dropped()

    def close(self) -> None:
        """Close the page, which stays."""
        self._mapped.close()

    def _read(self) -> None:
        """Read what is new, unless it is just being written."""
        page = self._mapped.value
        if page.version == self._seen:
            return
        version, text = page.version, bytes(page.changes)
        if not version & 1 and version == page.version:
            self._seen, self._changes = version, _parsed(text)


def configuration(started_with: Mapping[str, object]) -> dict[str, str]:
    """Environment variables for all nodes of a graph, given what each is started with."""
    digest = hashlib.sha256(json.dumps(started_with, sort_keys=True).encode()).hexdigest()
    return {CONFIGURATION: digest, NODES: " ".join(started_with)}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
