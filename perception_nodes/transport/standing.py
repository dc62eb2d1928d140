"""Files that stand as long as a graph runs; whoever removes them splits it.

A process that goes on with a removed file and one that has made it anew do not know of each other:
two detectors would work at once. logind removes a user's files when he logs out (RemoveIPC).
"""

import mmap
import os
from contextlib import suppress
from pathlib import Path

from perception_nodes.system.life import own_incarnation
from perception_nodes.transport.domain import config_of, own_domain, own_prefix
from perception_nodes.transport.memory import SHM_FOLDER

FILES_REMOVED = 5
"""Exit status of a node whose files were removed: the whole graph has to start anew."""
STANDING = (".lease", ".notes", ".book", ".count", ".dynamic", f".{own_incarnation():016x}.journal")
"""Ends of names; of journals our own alone, since the watchdog removes those of the dead."""


def removed_file(node: int = 0) -> str:
    """A file that this process uses and that somebody has removed, replaced or cut; empty if none.

    Args:
        node: number of our entry in iceoryx2's list of processes, 0 if there is none.
    """
    ours = f"{SHM_FOLDER}/{own_prefix()}"
    # Without a descriptor left, that is for others to see.
    with suppress(OSError), open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            mapped = line[line.find("/") :].rstrip("\n")
            path = mapped.removesuffix(" (deleted)")
            if path.startswith(ours) and path.endswith(STANDING):
                if path != mapped or _is_cut(path, line):
                    return path
    entry = Path(config_of(own_domain()).global_cfg.node_dir.to_string())
    entry /= f"{own_prefix()}{node}.node_monitor"
    return str(entry) if node and not entry.exists() else ""


def _is_cut(path: str, mapped: str) -> bool:
    """Whether a file is shorter than what we have mapped of it: to touch that ends a process."""
    begin, end = (int(address, 16) for address in mapped.split(maxsplit=1)[0].split("-"))
    return os.stat(path).st_size <= end - begin - mmap.PAGESIZE
