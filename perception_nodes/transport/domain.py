"""The processes of a domain in iceoryx2: joining them, and removing what dead ones left behind."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import iceoryx2 as iox2

from perception_nodes.transport.lock import open_locked
from perception_nodes.transport.memory import SHM_FOLDER, TransportError, is_ours, not_ours

CREATION_TIMEOUT_S = 5
PATIENCE_S = 10.0
"""How long to wait for another process that opens a channel or sweeps the domain."""


def own_prefix() -> str:
    """Prefix of the names of our files in shared memory, in the domain of this process."""
    return str(config_of(own_domain()).global_cfg.prefix.to_string())


def own_domain() -> int:
    """The ROS domain of this process.

    Raises:
        TransportError: `ROS_DOMAIN_ID` is not a whole number.
    """
    text = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not (text.isascii() and text.isdigit()):
        raise TransportError(f"ROS_DOMAIN_ID is {text!r}, it must be a whole number")
    return int(text)


def enter(domain: int) -> int:
    """Be present in a domain, until the returned descriptor is closed or the process ends.

    `sweep` removes all files of a domain in which nobody is present. It cannot ask iceoryx2 alone,
    which does not know the process that is about to join.

    Raises:
        TransportError: shared memory cannot be used, or is another user's.
    """
    return open_locked(_presence_file(domain), fcntl.LOCK_SH, PATIENCE_S)


@contextmanager
def opening(domain: int) -> Iterator[None]:
    """While we open a channel, no other process of ours does: see `remove_unfinished`.

    Raises:
        TransportError: another process has been at it for too long.
    """
    path = _presence_file(domain).with_suffix(".opening.lock")
    descriptor = open_locked(path, fcntl.LOCK_EX, PATIENCE_S)
    try:
        yield
    finally:
        os.close(descriptor)


def _presence_file(domain: int) -> Path:
    return SHM_FOLDER / f"perception_domain{domain}.lock"


def service_name(channel: str) -> str:
    """The name that iceoryx2 knows a channel by."""
    return f"perception/{channel}"


def join_domain(name: str, config: Any) -> Any:
    """Join the domain of `config`, under a name for tools that list its processes.

    Raises:
        TransportError: shared memory cannot be used, or is another user's.
    """
    iox2.set_log_level(iox2.LogLevel.Fatal)
    _claim_folder(Path(config.global_cfg.root_path.to_string()))
    try:
        # iceoryx2 must not take SIGINT and SIGTERM: a node shuts down through its own handler.
        node = (
            iox2.NodeBuilder.new()
            .name(iox2.NodeName.new(name))
            .config(config)
            .signal_handling_mode(iox2.SignalHandlingMode.Disabled)
            .create(iox2.ServiceType.Ipc)
        )
    except iox2.NodeCreationFailure as error:
        raise explained(name, error) from error
    # The one file that iceoryx2 opens to all users, a counter for the names of processes.
    for path in SHM_FOLDER.glob(f"{config.global_cfg.prefix.to_string()}*.global_mgmt"):
        with suppress(OSError):
            path.chmod(0o600)
    return node


def _claim_folder(folder: Path) -> None:
    """Make the folder of iceoryx2's sockets and names ours, if it is nobody's yet.

    Raises:
        TransportError: it is another user's, who could put other channels in the place of ours.
    """
    try:
        folder.mkdir(0o700, exist_ok=True)
    except OSError as error:
        raise TransportError(f"{folder} cannot be made: {error.strerror}") from error
    if not is_ours(folder.lstat()):
        raise not_ours(folder)


def config_of(domain: int) -> Any:
    """Settings of iceoryx2 with a name prefix that keeps domains apart."""
    config = iox2.config.default()
    config.global_cfg.prefix = iox2.FileName.new(f"perception{domain}_")
    # Several processes open a channel at the same moment, and one of them creates it. On a busy
    # machine it may be kept from running meanwhile for longer than the default of half a second.
    config.global_cfg.creation_timeout = iox2.Duration.from_secs(CREATION_TIMEOUT_S)
    return config


def sweep(domain: int | None = None) -> None:
    """Remove what dead processes left behind; if no process is in the domain, everything."""
    domain = own_domain() if domain is None else domain
    config = config_of(domain)
    presence = _presence_file(domain)
    try:
        alone = open_locked(presence, fcntl.LOCK_EX)
    except TransportError:
        alone = None
    try:
        # Joining needs a little room. Without any, the files can still be removed below.
        with suppress(TransportError):
            reclaim_dead(join_domain("sweep", config))
        # A camera by another library than ours is present in iceoryx2's list alone.
        if alone is not None and all(map(_is_dead, _processes(config))):
            _remove_all(domain, config)
    finally:
        if alone is not None:
            os.close(alone)


def _remove_all(domain: int, config: Any) -> None:
    prefix = str(config.global_cfg.prefix.to_string())
    folders = set()
    # Last the lock: who takes it before it has gone comes to nothing, and tries again.
    locks = sorted(SHM_FOLDER.glob(f"perception_domain{domain}.*"), reverse=True)
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
    """Remove the part of a channel that a process has left which was killed as it opened it.

    To be called within `opening`: then no living process of ours is about to open it. iceoryx2
    0.10.0 itself waits for the dead one, and never opens the channel again.

    Args:
        channel: name of the channel.
        pattern: which of its two services, `PublishSubscribe` or `Event`.
        domain: the domain.
    """
    ours = f'"{service_name(channel)}"', f"[messaging_pattern.{pattern}"
    for path in _own_files(config_of(domain)):
        if path.name.endswith(".service"):
            with suppress(OSError):
                text = path.read_text(errors="replace")
                # One that was killed as it wrote the file may not have come as far as this.
                if "[messaging_pattern." not in text or all(part in text for part in ours):
                    path.unlink()


def forget(camera: str) -> None:
    """Remove books and journals of a camera: no graph goes on with what they tell."""
    for kind in ("book", "tracks", "*.journal"):
        for path in SHM_FOLDER.glob(f"{own_prefix()}{camera}.{kind}"):
            with suppress(OSError):  # it belongs to another user
                path.unlink()


def reclaim_dead(node: Any) -> None:
    """Remove what killed processes left in shared memory."""
    try:
        node.try_cleanup_dead_nodes()
    except iox2.NodeCleanupFailure:
        # Another process does it, or the files belong to another user. They only cost memory.
        return
    for state in filter(_is_dead, _processes(node.config)):
        _forget(state._0, node.config)


def _processes(config: Any) -> list[Any]:
    return list(iox2.Node.list(iox2.ServiceType.Ipc, config))


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


def explained(channel: str, error: Exception) -> TransportError:
    """An error of iceoryx2 about a channel, with its remedy."""
    remedy = "is another graph with other settings running in this domain? (ROS_DOMAIN_ID)"
    if shutil.disk_usage(SHM_FOLDER).free < 1_000_000:
        remedy = f"{SHM_FOLDER} is full ({os.strerror(errno.ENOSPC)})"
    return TransportError(f"shared memory of {channel!r}: {error}; {remedy}")
