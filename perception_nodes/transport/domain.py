"""A ROS domain in iceoryx2: its settings, and how a process joins it."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import iceoryx2 as iox2

from perception_nodes.system.processes import Process, open_process
from perception_nodes.transport.lock import open_locked, own_folder
from perception_nodes.transport.memory import NAMESPACE, SHM_FOLDER, TransportError

CREATION_TIMEOUT_S = 5
PATIENCE_S = 10.0
"""How long to wait for another process that opens a channel or sweeps the domain."""


def own_prefix() -> str:
    """Prefix of the names of our files in shared memory, in the domain of this process."""
    return str(config_of(own_domain()).global_cfg.prefix.to_string())


def open_ours(pid: int) -> Process | None:
    """Open a process that uses our files in shared memory, see `open_process`."""
    return open_process(pid, f"{os.path.realpath(SHM_FOLDER)}/{own_prefix()}")


def own_domain() -> int:
    """The ROS domain of this process.

    Raises:
        TransportError: `ROS_DOMAIN_ID` is not a whole number.
    """
    text = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not (text.isascii() and text.isdigit()):
        raise TransportError(f"ROS_DOMAIN_ID is {text!r}, it must be a whole number")
    return int(text)


class Presence:
    """The presence of this process in a domain, until it leaves or ends.

    `remains.sweep` removes all files of a domain in which nobody is present. It cannot ask iceoryx2
    alone, which does not know the process that is about to join.
    """

    def __init__(self, domain: int) -> None:
        """Enter.

        Raises:
            TransportError: shared memory cannot be used, or is another user's.
        """
        self._descriptors = [keep_folder(config_of(domain))]
        try:
            presence = open_locked(presence_file(domain), fcntl.LOCK_SH, PATIENCE_S)
        except TransportError:
            self.leave()
            raise
        self._descriptors.append(presence)

    def leave(self) -> None:
        """End the presence."""
        for descriptor in self._descriptors:
            os.close(descriptor)


def keep_folder(config: Any) -> int:
    """Make iceoryx2's folder ours if it does not exist, and keep it until the descriptor closes.

    systemd removes old files in /tmp, even sockets and names of a graph that runs for days, but
    leaves a locked folder alone.

    Raises:
        TransportError: it belongs to another user, who could replace our channels.
    """
    folder = Path(config.global_cfg.root_path.to_string())
    return open_locked(folder, fcntl.LOCK_SH, PATIENCE_S, own_folder)


@contextmanager
def in_namespace(namespace: str) -> Iterator[None]:
    """A context in which this process is in the ROS namespace of a graph."""
    before = os.environ.get(NAMESPACE, "")
    os.environ[NAMESPACE] = namespace
    try:
        yield
    finally:
        os.environ[NAMESPACE] = before


@contextmanager
def opening(domain: int) -> Iterator[None]:
    """A context in which no other process of ours opens a channel; see `remains.remove_unfinished`.

    Raises:
        TransportError: another process has been opening one for too long.
    """
    descriptor = open_locked(opening_file(domain), fcntl.LOCK_EX, PATIENCE_S)
    try:
        yield
    finally:
        os.close(descriptor)


def presence_file(domain: int) -> Path:
    """The lock that processes of a domain share."""
    return SHM_FOLDER / f"perception_domain{domain}.lock"


def opening_file(domain: int) -> Path:
    """The lock of the process that opens a channel."""
    return SHM_FOLDER / f"perception_domain{domain}.opening.lock"


def service_name(channel: str) -> str:
    """The name that iceoryx2 knows a channel by."""
    return f"perception/{channel}"


def join_domain(name: str, config: Any) -> Any:
    """Join the domain of `config`, under a name for tools that list its processes.

    The caller keeps the folder.

    Raises:
        TransportError: shared memory cannot be used.
    """
    iox2.set_log_level(iox2.LogLevel.Fatal)
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
    # This counter for the names of processes is the one file that iceoryx2 opens to all users.
    for path in SHM_FOLDER.glob(f"{config.global_cfg.prefix.to_string()}*.global_mgmt"):
        with suppress(OSError):
            path.chmod(0o600)
    return node


def config_of(domain: int) -> Any:
    """Settings of iceoryx2 with a name prefix that keeps domains and namespaces apart."""
    config = iox2.config.default()
    namespace = os.environ.get(NAMESPACE, "").strip("/")
    # The names of sockets have little room.
    part = hashlib.blake2b(namespace.encode(), digest_size=4).hexdigest() + "_"
    part = part if namespace else ""
    config.global_cfg.prefix = iox2.FileName.new(f"perception{domain}_{part}")
    # Several processes open a channel at the same moment, and one of them creates it. On a busy
    # machine that one may be kept from running for longer than the default of half a second.
    config.global_cfg.creation_timeout = iox2.Duration.from_secs(CREATION_TIMEOUT_S)
    return config


@contextmanager
def explaining(channel: str) -> Iterator[None]:
    """A context whose errors are `explained`."""
    try:
        yield
    except Exception as error:
        raise explained(channel, error) from error


def explained(channel: str, error: Exception) -> TransportError:
    """An error of iceoryx2 about a channel, with its remedy."""
    remedy = "is another graph with other settings running in this domain? (ROS_DOMAIN_ID)"
    if shutil.disk_usage(SHM_FOLDER).free < 1_000_000:
        remedy = f"{SHM_FOLDER} is full ({os.strerror(errno.ENOSPC)})"
    return TransportError(f"shared memory of {channel!r}: {error}; {remedy}")
