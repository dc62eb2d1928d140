"""What dead processes leave in shared memory and in iceoryx2's folder, and how it is removed."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import iceoryx2 as iox2

from perception_nodes.transport import domain as domains
from perception_nodes.transport.lock import open_locked
from perception_nodes.transport.memory import SHM_FOLDER, TransportError

UNFILLED_S = 1.0
"""A file that a process makes is empty for some microseconds."""


def sweep(domain: int | None = None) -> None:
    """Remove what dead processes left behind; if no process is in the domain, everything.

    Raises:
        TransportError: iceoryx2's folder is another user's, or damaged; or a file of a channel is
            empty, and processes use the domain.
    """
    domain = domains.own_domain() if domain is None else domain
    config = domains.config_of(domain)
    presence = domains.presence_file(domain)
    folder = domains.keep_folder(config)
    try:
        alone = open_locked(presence, fcntl.LOCK_EX)
    except TransportError:
        alone = None
    try:
        for path in _empty_files(config):
            if alone is None:
                raise TransportError(
                    f"{path} is empty, and iceoryx2 would wait for its content for ever; end all "
                    f"processes of ROS domain {domain}, cameras too, and start again"
                )
            path.unlink(missing_ok=True)
        # Joining needs a little room. Without any, the files can still be removed below.
        with suppress(TransportError):
            reclaim_dead(domains.join_domain("sweep", config))
        # A camera that uses another library than ours is only in iceoryx2's list.
        if alone is not None and all(map(_is_dead, _processes(config))):
            _remove_all(domain, config)
    finally:
        os.close(folder)
        if alone is not None:
            os.close(alone)


def _empty_files(config: Any) -> list[Path]:
    """Channels' files that whoever made them has not filled and never will."""
    found, old = [], time.time() - UNFILLED_S
    for path in SHM_FOLDER.glob(f"{config.global_cfg.prefix.to_string()}*"):
        with suppress(FileNotFoundError):
            state = path.stat()
            if not state.st_size and state.st_mtime < old:
                found.append(path)
    return found


def _remove_all(domain: int, config: Any) -> None:
    prefix = str(config.global_cfg.prefix.to_string())
    folders = set()
    # Remove the lock that we hold last: a process that joins then finds nothing that we still
    # remove.
    locks = domains.opening_file(domain), domains.presence_file(domain)
    for path in (*SHM_FOLDER.glob(f"{prefix}*"), *_own_files(config), *locks):
        folders.add(path.parent)
        with suppress(OSError):  # it belongs to another user
            path.unlink()
    nodes = Path(config.global_cfg.node_dir.to_string())
    for folder in folders:
        if folder.parent == nodes:
            with suppress(OSError):
                folder.rmdir()


def _own_files(config: Any) -> Iterator[Path]:
    """Files of a domain in iceoryx2's folder: sockets, services and processes."""
    prefix = str(config.global_cfg.prefix.to_string())
    for folder, _, names in os.walk(config.global_cfg.root_path.to_string()):
        yield from (Path(folder, name) for name in names if name.startswith(prefix))


def remove_unfinished(channel: str, pattern: str, domain: int) -> None:
    """Remove the unfinished part of a channel whose process was killed while it opened it.

    To be called within `opening`: then no living process of ours is about to open it. iceoryx2
    0.10.0 itself waits for the dead one, and never opens the channel again.

    Args:
        channel: name of the channel.
        pattern: which of its two services, `PublishSubscribe` or `Event`.
        domain: the domain.
    """
    ours = f'"{domains.service_name(channel)}"', f"[messaging_pattern.{pattern}"
    for path in _own_files(domains.config_of(domain)):
        if path.name.endswith(".service"):
            with suppress(OSError):
                text = path.read_text(errors="replace")
                # A process that was killed while it wrote the file may not have come as far as
                # this.
                if "[messaging_pattern." not in text or all(part in text for part in ours):
                    path.unlink()


def forget(camera: str) -> None:
    """Remove what a graph has kept of a camera: no other graph goes on with it."""
    for kind in ("book", "tracks", "notes", "*.journal", "*.state"):
        for path in SHM_FOLDER.glob(f"{domains.own_prefix()}{camera}.{kind}"):
            with suppress(OSError):  # it belongs to another user
                path.unlink()


def reclaim_dead(node: Any) -> None:
    """Remove what killed processes left in shared memory.

    Raises:
        TransportError: iceoryx2's folder is damaged.
    """
    try:
        node.try_cleanup_dead_nodes()
    except iox2.NodeCleanupFailure:
        # Another process removes them, or they belong to another user. They only cost memory.
        return
    for state in filter(_is_dead, _processes(node.config)):
        _forget(state._0, node.config)


def _processes(config: Any) -> list[Any]:
    try:
        return list(iox2.Node.list(iox2.ServiceType.Ipc, config))
    except iox2.NodeListFailure as error:
        folder = config.global_cfg.node_dir.to_string()
        raise TransportError(f"{folder} cannot be listed: {error}") from error


def _is_dead(state: Any) -> bool:
    return type(state).__name__ == "Dead"


def _forget(dead: Any, config: Any) -> None:
    """Remove a dead process from iceoryx2's list, if its other resources are gone.

    iceoryx2 0.10.0 itself never removes a process that was killed while it joined or left.
    """
    try:
        dead.try_remove_stale_resources()
    except iox2.NodeCleanupFailure as failure:
        if failure.args != ("ResourcesAlreadyCleanedUp",):
            return
    folder = Path(config.global_cfg.node_dir.to_string())
    number = dead.id.value
    with suppress(OSError):
        shutil.rmtree(folder / str(number), ignore_errors=True)
        for path in folder.glob(f"*_{number}.node_monitor*"):
            path.unlink()
