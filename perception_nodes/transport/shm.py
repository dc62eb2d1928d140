"""Channels between processes over iceoryx2: a handle travels, pixels do not.

A channel carries samples of a fixed header (a ctypes structure) and a payload of bytes. Its depth
is explicit, and where a reader is slow the newest samples win: what they pushed out shows as a gap
in the headers' numbers, which the reader accounts for.
"""

import ctypes
import errno
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import iceoryx2 as iox2
import numpy as np
from numpy.typing import NDArray

SHM_FOLDER = Path("/dev/shm")
MAX_PROCESSES = 8
"""At one end of a channel: the one that works, its standby, and dead ones not yet reclaimed."""
RESERVED_BYTES = 8_000_000
"""Of a file that we have mapped. iceoryx2's are smaller; Fast DDS makes large ones, for images, and
fills them from the front: a node that sends no images needs no more."""
TIMEOUT_TICK_NS = 4_000_000
"""The kernel counts the timeouts of sockets in ticks: one that is shorter lasts for two of them."""
SPARE_SAMPLES = 6
"""Beside those that wait for a reader: what two readers have borrowed and we fill meanwhile."""
Header = TypeVar("Header", bound=ctypes.Structure)


class TransportError(RuntimeError):
    """Shared memory cannot be had; the text says what to do."""


class Sample(Generic[Header]):
    """A header and payload in shared memory.

    Attributes:
        header: the structure, in place.
        payload: uint8 [n], in place.
    """

    __slots__ = ("_loan", "header", "payload")

    def __init__(self, loan: Any, header: Header, payload: NDArray[np.uint8]) -> None:
        """Wrap what iceoryx2 lent."""
        self._loan = loan
        self.header = header
        self.payload = payload

    def release(self) -> None:
        """Give the memory back; header and payload must not be touched after this."""
        self._loan.delete()


class Endpoint:
    """A process's entry to shared memory; all its channels close with it."""

    def __init__(self, name: str, domain: int | None = None) -> None:
        """Join.

        Args:
            name: of the process, for tools that list them.
            domain: keeps the graphs of one machine apart; `ROS_DOMAIN_ID` by default.

        Raises:
            TransportError: shared memory is not to be had.
        """
        self._node = _join(name, _config(_own_domain() if domain is None else domain))
        reclaim_dead(self._node)
        self._ports: list[Any] = []

    def writer(
        self,
        channel: str,
        header: type[Header],
        payload_bytes: int,
        depth: int,
    ) -> "Writer[Header]":
        """The sending end of a channel.

        Args:
            channel: its name, the same at both ends.
            header: the structure that each sample carries.
            payload_bytes: payload that there is room for at first; a larger one makes more.
            depth: samples that wait for a reader before the oldest is pushed out.

        Raises:
            TransportError: no room in /dev/shm, or the channel exists with other properties.
        """
        samples = depth + SPARE_SAMPLES
        require_room((payload_bytes + ctypes.sizeof(header)) * samples)
        service, event = self._services(channel, header, depth)
        try:
            publisher = (
                service.publisher_builder()
                .initial_max_slice_len(max(payload_bytes, 1))
                .max_loaned_samples(2)
                .allocation_strategy(iox2.AllocationStrategy.PowerOfTwo)
                .backpressure_strategy(iox2.BackpressureStrategy.DiscardData)
                .create()
            )
            notifier = event.notifier_builder().create()
        except Exception as error:
            raise _explained(channel, error) from error
        self._ports += [publisher, notifier]
        return Writer(publisher, notifier, header, payload_bytes, samples)

    def reader(self, channel: str, header: type[Header], depth: int) -> "Reader[Header]":
        """The receiving end of a channel; see `writer`."""
        service, event = self._services(channel, header, depth)
        try:
            subscriber = service.subscriber_builder().buffer_size(depth).create()
            listener = event.listener_builder().create()
        except Exception as error:
            raise _explained(channel, error) from error
        self._ports += [subscriber, listener]
        return Reader(subscriber, listener, header)

    def reclaim_dead(self) -> None:
        """Remove what killed processes left in shared memory."""
        reclaim_dead(self._node)

    def close(self) -> None:
        """Leave: close every channel of this process and remove what it held in shared memory."""
        for port in reversed(self._ports):
            port.delete()
        self._ports.clear()
        self._node = None

    def _services(self, channel: str, header: type[Header], depth: int) -> tuple[Any, Any]:
        name = iox2.ServiceName.new(f"perception/{channel}")
        try:
            service = (
                self._node.service_builder(name)
                .publish_subscribe(iox2.Slice[ctypes.c_uint8])
                .user_header(header)
                .enable_safe_overflow(True)
                .history_size(0)
                .subscriber_max_buffer_size(depth)
                .subscriber_max_borrowed_samples(2)
                .max_publishers(MAX_PROCESSES)
                .max_subscribers(MAX_PROCESSES)
                .max_nodes(2 * MAX_PROCESSES)
                .open_or_create()
            )
            event = (
                self._node.service_builder(name)
                .event()
                .max_notifiers(MAX_PROCESSES)
                .max_listeners(MAX_PROCESSES)
                .max_nodes(2 * MAX_PROCESSES)
                .open_or_create()
            )
        except Exception as error:
            raise _explained(channel, error) from error
        return service, event


class Writer(Generic[Header]):
    """The sending end of a channel."""

    def __init__(
        self,
        publisher: Any,
        notifier: Any,
        header: type[Header],
        payload_bytes: int,
        samples: int,
    ) -> None:
        """Made by `Endpoint.writer`."""
        self._publisher = publisher
        self._notifier = notifier
        self._header = header
        self._samples = samples
        self.payload_bytes = payload_bytes
        self._reserve(payload_bytes)

    def _reserve(self, payload_bytes: int) -> None:
        """Give the samples that can be in use at once their pages.

        iceoryx2's segments have room for many more, for as many readers as there may ever be; but a
        sample given back is the next one to be lent, so those behind are never touched.
        """
        needed_bytes = (payload_bytes + ctypes.sizeof(self._header) + 128) * self._samples + 4096
        for path in SHM_FOLDER.glob(f"*_{self._publisher.id.value}__*.data"):
            _give_pages(path, needed_bytes)

    def loan(self, payload_bytes: int | None = None) -> Sample[Header]:
        """Borrow a sample to fill; its header is zeroed, its payload is not.

        Raises:
            TransportError: no sample is free, or there is no room for a larger one.
        """
        size = self.payload_bytes if payload_bytes is None else payload_bytes
        if size > self.payload_bytes:
            require_room(size * self._samples)
        try:
            loan = self._publisher.loan_slice_uninit(max(size, 1))
        except iox2.LoanError as error:
            raise TransportError(f"no free slot in shared memory ({error})") from error
        if size > self.payload_bytes:
            self.payload_bytes = 1 << (size - 1).bit_length()  # as `PowerOfTwo` does
            self._reserve(self.payload_bytes)
        address = loan.user_header_ptr
        ctypes.memset(address, 0, ctypes.sizeof(self._header))
        return Sample(loan, self._header.from_address(address), _bytes_at(loan.payload_ptr, size))

    def send(self, sample: Sample[Header]) -> None:
        """Hand a filled sample to the readers and wake them."""
        sample._loan.assume_init().send()
        self._notifier.notify()

    def send_record(self, record: Header) -> None:
        """Send a header alone."""
        sample = self.loan(0)
        ctypes.memmove(
            ctypes.addressof(sample.header), ctypes.addressof(record), ctypes.sizeof(record)
        )
        self.send(sample)


class Reader(Generic[Header]):
    """The receiving end of a channel."""

    def __init__(self, subscriber: Any, listener: Any, header: type[Header]) -> None:
        """Made by `Endpoint.reader`."""
        self._subscriber = subscriber
        self._listener = listener
        self._header = header

    def wait(self, timeout_ms: float) -> None:
        """Sleep until a sample comes, or the timeout; a signal may end it early."""
        deadline_ns = time.monotonic_ns() + round(timeout_ms * 1e6)
        # A loop, since the notification of a sample that was read before it came wakes us too.
        while not self._subscriber.has_samples():
            left_ns = deadline_ns - time.monotonic_ns()
            if left_ns <= TIMEOUT_TICK_NS:
                return
            try:
                self._listener.timed_wait(iox2.Duration.from_nanos(left_ns))
            except iox2.ListenerWaitError:
                # Interrupted by a signal; the caller looks at its stop flag.
                return

    def receive(self) -> Sample[Header] | None:
        """The oldest waiting sample, None where there is none; release it when done."""
        loan = self._subscriber.receive()
        if loan is None:
            return None
        header = self._header.from_address(loan.user_header_ptr)
        return Sample(loan, header, _bytes_at(loan.payload_ptr, len_of(loan)))

    def newest(self) -> Sample[Header] | None:
        """The newest waiting sample; older ones are released unread."""
        newest = None
        while (sample := self.receive()) is not None:
            if newest is not None:
                newest.release()
            newest = sample
        return newest

    def records(self) -> list[Header]:
        """Copies of all waiting headers, oldest first."""
        found = []
        while (sample := self.receive()) is not None:
            found.append(self._header.from_buffer_copy(sample.header))
            sample.release()
        return found


def require_room(needed_bytes: int) -> None:
    """Check /dev/shm before pages are touched: a full one kills the process that writes.

    Raises:
        TransportError: not enough is free.
    """
    free_bytes = shutil.disk_usage(SHM_FOLDER).free
    if free_bytes < needed_bytes:
        raise TransportError(
            f"{SHM_FOLDER} has {free_bytes / 1e6:.1f} MB free, {needed_bytes / 1e6:.1f} MB are "
            f"needed; remove what lies there or enlarge it (mount -o remount,size=2G {SHM_FOLDER})"
        )


def reserve() -> None:
    """Give the files in shared memory that this process has mapped the pages that they may need.

    They are made without: a page is found when it is first written to, and where `/dev/shm` is full
    by then the process dies of SIGBUS. It is better told when it starts. Samples are not meant
    here, see `Writer`.

    Raises:
        TransportError: not enough is free.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        paths = {
            line.split(maxsplit=5)[5].rstrip("\n") for line in maps if f" {SHM_FOLDER}/" in line
        }
    for path in paths:
        if not path.endswith(".data"):
            _give_pages(Path(path), RESERVED_BYTES)


def _give_pages(path: Path, most_bytes: int) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return  # removed meanwhile, or another user's
    size_bytes = min(os.fstat(descriptor).st_size, most_bytes)
    try:
        os.posix_fallocate(descriptor, 0, max(size_bytes, 1))
    except OSError as error:
        require_room(size_bytes)
        raise TransportError(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def sweep(domain: int | None = None) -> None:
    """Remove what is left in shared memory of a domain in which no process is alive any more."""
    config = _config(_own_domain() if domain is None else domain)
    try:
        node = _join("sweep", config)
    except TransportError:
        # Also cleaning needs a little room; what can be removed without is removed below.
        node = None
    else:
        reclaim_dead(node)
    others = [s for s in iox2.Node.list(iox2.ServiceType.Ipc, config) if not _is_dead(s)]
    alone = len(others) <= (node is not None)
    del node
    if alone:
        for left in SHM_FOLDER.glob(f"{config.global_cfg.prefix.to_string()}*"):
            with suppress(OSError):  # another user's
                left.unlink()


def reclaim_dead(node: Any) -> None:
    """Remove what killed processes left in shared memory."""
    try:
        node.try_cleanup_dead_nodes()
    except iox2.NodeCleanupFailure:
        # Another process is at it, or the remains belong to another user: they cost memory only.
        return
    config = node.config
    for state in iox2.Node.list(iox2.ServiceType.Ipc, config):
        if _is_dead(state):
            _forget(state._0, config)


def _is_dead(state: Any) -> bool:
    return type(state).__name__ == "Dead"


def _forget(dead: Any, config: Any) -> None:
    """Remove a dead process from the list where there is nothing else left to remove of it.

    One that was killed while it joined or left stays in iceoryx2's list for ever (0.10.0).
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


def own_prefix() -> str:
    """What the names of our files in shared memory begin with, in the domain of this process."""
    return str(_config(_own_domain()).global_cfg.prefix.to_string())


def _own_domain() -> int:
    text = os.environ.get("ROS_DOMAIN_ID") or "0"
    if not (text.isascii() and text.isdigit()):
        raise TransportError(f"ROS_DOMAIN_ID is {text!r}, it must be a whole number")
    return int(text)


def _join(name: str, config: Any) -> Any:
    iox2.set_log_level(iox2.LogLevel.Fatal)
    try:
        # Python keeps SIGINT and SIGTERM: a node shuts down through its own handler.
        return (
            iox2.NodeBuilder.new()
            .name(iox2.NodeName.new(name))
            .config(config)
            .signal_handling_mode(iox2.SignalHandlingMode.Disabled)
            .create(iox2.ServiceType.Ipc)
        )
    except iox2.NodeCreationFailure as error:
        raise _explained(name, error) from error


def _config(domain: int) -> Any:
    """iceoryx2's settings, with a name prefix that keeps domains apart."""
    config = iox2.config.default()
    config.global_cfg.prefix = iox2.FileName.new(f"perception{domain}_")
    return config


def len_of(loan: Any) -> int:
    """Bytes of a received payload."""
    return int(loan.header.number_of_elements)


_ARRAY_TYPES: dict[int, Any] = {}


def _bytes_at(address: int, size: int) -> NDArray[np.uint8]:
    array_type = _ARRAY_TYPES.get(size)
    if array_type is None:
        array_type = _ARRAY_TYPES[size] = ctypes.c_uint8 * size
    return np.frombuffer(array_type.from_address(address), np.uint8)


def _explained(channel: str, error: Exception) -> TransportError:
    remedy = "is another graph with other settings running in this domain? (ROS_DOMAIN_ID)"
    if shutil.disk_usage(SHM_FOLDER).free < 1_000_000:
        remedy = f"{SHM_FOLDER} is full ({os.strerror(errno.ENOSPC)})"
    return TransportError(f"shared memory of {channel!r}: {error}; {remedy}")
