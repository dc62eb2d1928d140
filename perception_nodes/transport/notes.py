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
    """A page in shared memory for as long as a graph lives; without a supervisor there is none."""

    def __init__(self, camera: str, of_supervisor: bool = False) -> None:
        """Open the page of the graph whose first camera this is.

        Raises:
            TransportError: the page is another user's.
        """
        self._mapped: Mapped[NotesPage] | None = None
        if of_supervisor or is_supervised():
            self._mapped = Mapped(SHM_FOLDER / f"{own_prefix()}{camera}.notes", NotesPage)
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
        if self._mapped is None:
            return
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
        if self._mapped is not None:
            # Where somebody has cut the file, the supervisor would end, and with it the graph.
            os.ftruncate(self._mapped.descriptor, ctypes.sizeof(NotesPage))
            self._mapped.value.lines_dropped = lines_dropped()

    @property
    def log_lines_dropped(self) -> int:
        """Lines that the supervisor has dropped, or where there is none this process."""
        return lines_dropped() if self._mapped is None else int(self._mapped.value.lines_dropped)

    def close(self) -> None:
        """Close the page, which stays."""
        if self._mapped is not None:
            self._mapped.close()
            self._mapped = None

    def _read(self) -> None:
        """Read what is new, unless it is just being written."""
        if self._mapped is None or self._mapped.value.version == self._seen:
            return
        page = self._mapped.value
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
