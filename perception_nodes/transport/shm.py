"""Channels between processes over iceoryx2: a handle travels, pixels do not.

A channel carries samples of a fixed header (a ctypes structure) and a payload of bytes. Its depth
is explicit. If a reader is slow, newer samples push out the oldest ones; the reader sees a gap in
the numbers in the headers and accounts for it.
"""

import ctypes
import time
from collections.abc import Sequence
from functools import cache
from typing import Any, Generic, TypeVar

import iceoryx2 as iox2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.transport import domain as domains
from perception_nodes.transport.memory import SHM_FOLDER, TransportError, give_pages, require_room
from perception_nodes.transport.remains import reclaim_dead, remove_unfinished

MAX_PROCESSES = 8
"""Processes at one end of a channel: the active one, its standby, and dead ones not yet removed."""
TIMEOUT_TICK_NS = 4_000_000
"""Tick of the kernel's socket timeouts: a shorter timeout still lasts for two ticks."""
SIGNALLED = (iox2.WaitSetRunResult.Interrupt, iox2.WaitSetRunResult.TerminationRequest)
SPARE_SAMPLES = 6
"""Samples beside those that wait for a reader: two readers borrow some while others are filled."""
Header = TypeVar("Header", bound=ctypes.Structure)


class Sample(Generic[Header]):
    """A header and payload in shared memory.

    Attributes:
        header: the structure, in place.
        payload: uint8 [n], in place.
    """

    __slots__ = ("_loan", "header", "payload")

    def __init__(self, loan: Any, header: Header, payload: NDArray[np.uint8]) -> None:
        self._loan = loan
        self.header = header
        self.payload = payload

    @property
    def source(self) -> int:
        """The sender of a received sample; a restarted process counts as another sender."""
        value = int(self._loan.header.publisher_id.value)
        return value >> 64 ^ value & (1 << 64) - 1

    @property
    def node(self) -> int:
        """The endpoint that sent a received sample, see `Endpoint.names`."""
        return int(self._loan.header.node_id.value)

    def release(self) -> None:
        """Give the memory back; header and payload must not be touched after this."""
        self._loan.delete()


class Endpoint:
    """A process's entry to shared memory; all its channels close with it.

    Attributes:
        number: of this process in iceoryx2's list of processes.
    """

    def __init__(self, name: str, domain: int | None = None) -> None:
        """Join a domain.

        Args:
            name: name of the process, for tools that list processes.
            domain: keeps the graphs of one machine apart; `ROS_DOMAIN_ID` by default.

        Raises:
            TransportError: shared memory cannot be used.
        """
        self._domain = domains.own_domain() if domain is None else domain
        self._presence = domains.Presence(self._domain)
        try:
            self._node = domains.join_domain(name, domains.config_of(self._domain))
            reclaim_dead(self._node)
        except TransportError:
            self._presence.leave()
            raise
        self.number = int(self._node.id.value)
        self._ports: list[Any] = []
        self._opened: dict[str, Any] = {}

    def writer(
        self,
        channel: str,
        header: type[Header],
        payload_bytes: int,
        depth: int,
        borrowed: int = 2,
        loaned: int = 2,
        spare: int = SPARE_SAMPLES,
    ) -> "Writer[Header]":
        """Open the sending end of a channel.

        Args:
            channel: name of the channel, the same at both ends.
            header: the structure that each sample carries.
            payload_bytes: size of payload to make room for; it grows if a larger one is sent.
            depth: samples that wait for a reader before the oldest one is pushed out.
            borrowed: samples that a reader may hold at once.
            loaned: samples that we may fill at once.
            spare: samples to make room for beside those that wait, with two that are being filled.

        Raises:
            TransportError: /dev/shm has no room, or the channel exists with other properties.
        """
        samples = depth + spare + loaned - 2
        require_room((payload_bytes + ctypes.sizeof(header)) * samples)
        service, event = self._services(channel, header, depth, borrowed)
        with domains.explaining(channel):
            publisher = (
                service.publisher_builder()
                .initial_max_slice_len(max(payload_bytes, 1))
                .max_loaned_samples(loaned)
                .allocation_strategy(iox2.AllocationStrategy.PowerOfTwo)
                .backpressure_strategy(iox2.BackpressureStrategy.DiscardData)
                .create()
            )
            notifier = event.notifier_builder().create()
        self._ports += [publisher, notifier]
        return Writer(publisher, notifier, header, payload_bytes, samples)

    def reader(
        self,
        channel: str,
        header: type[Header],
        depth: int,
        borrowed: int = 2,
        waiting: int | None = None,
    ) -> "Reader[Header]":
        """Open the receiving end of a channel; for the arguments see `writer`.

        A reader that wants fewer samples to wait for it than `depth` says so in `waiting`.
        """
        service, event = self._services(channel, header, depth, borrowed)
        with domains.explaining(channel):
            subscriber = service.subscriber_builder().buffer_size(waiting or depth).create()
            listener = event.listener_builder().create()
        self._ports += [subscriber, listener]
        self._opened[channel] = service
        return Reader(subscriber, listener, header)

    def senders(self, channel: str) -> int:
        """The number of processes that have the sending end of this channel open."""
        return int(self._opened[channel].dynamic_config.number_of_publishers)

    def names(self, channel: str) -> dict[int, str]:
        """The endpoints that have this channel open: name and process of each."""
        states = self._opened[channel].nodes
        views = [one._0 for one in states if isinstance(one, iox2.NodeState.Alive)]
        return {
            int(one.id.value): f"{one.details.name.as_str()} (process {one.details.process_id})"
            for one in views
            if one.details is not None
        }

    def waiter(self, readers: "Sequence[Reader[Any]]") -> "Waiter | Reader[Any]":
        """Open a waiter for samples of several channels at once; a single one waits by itself."""
        if len(readers) == 1:
            return readers[0]
        with domains.explaining("several channels"):
            disabled = iox2.SignalHandlingMode.Disabled
            builder = iox2.WaitSetBuilder.new().signal_handling_mode(disabled)
            waitset = builder.create(iox2.ServiceType.Ipc)
            self._ports.append(waitset)
            for reader in readers:
                self._ports.append(waitset.attach_notification(reader.listener))
        return Waiter(waitset, readers)

    def reclaim_dead(self) -> None:
        """Remove what killed processes left in shared memory."""
        reclaim_dead(self._node)

    def close(self) -> None:
        """Leave the domain: close all channels of this process and remove its shared memory."""
        for port in reversed(self._ports):
            port.delete()
        self._ports.clear()
        self._opened.clear()
        if self._node is not None:
            self._node = None
            self._presence.leave()

    def _services(
        self, channel: str, header: type[Header], depth: int, borrowed: int
    ) -> tuple[Any, Any]:
        name = iox2.ServiceName.new(domains.service_name(channel))
        messages = (
            self._node.service_builder(name)
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .user_header(header)
            .enable_safe_overflow(True)
            .history_size(0)
            .subscriber_max_buffer_size(depth)
            .subscriber_max_borrowed_samples(borrowed)
            .max_publishers(MAX_PROCESSES)
            .max_subscribers(MAX_PROCESSES)
            .max_nodes(2 * MAX_PROCESSES)
        )
        events = (
            self._node.service_builder(name)
            .event()
            .max_notifiers(MAX_PROCESSES)
            .max_listeners(MAX_PROCESSES)
            .max_nodes(2 * MAX_PROCESSES)
        )
        with domains.opening(self._domain):
            return (
                self._open_or_create(messages, channel, "PublishSubscribe"),
                self._open_or_create(events, channel, "Event"),
            )

    def _open_or_create(self, builder: Any, channel: str, pattern: str) -> Any:
        try:
            return builder.open_or_create()
        except Exception as error:
            if "HangsInCreation" not in str(error):
                raise domains.explained(channel, error) from error
        remove_unfinished(channel, pattern, self._domain)
        with domains.explaining(channel):
            return builder.open_or_create()


class Writer(Generic[Header]):
    """The sending end of a channel; made by `Endpoint.writer`."""

    def __init__(
        self, publisher: Any, notifier: Any, header: type[Header], payload_bytes: int, samples: int
    ) -> None:
        self._publisher = publisher
        self._notifier = notifier
        self._header = header
        self._samples = samples
        self.payload_bytes = payload_bytes
        self._reserve(payload_bytes)

    def _reserve(self, payload_bytes: int) -> None:
        """Reserve pages for the samples that can be in use at once.

        A segment of iceoryx2 has room for many more, for the largest possible number of readers.
        But the sample returned last is lent next, so the others are never touched.
        """
        needed_bytes = (payload_bytes + ctypes.sizeof(self._header) + 128) * self._samples + 4096
        for path in SHM_FOLDER.glob(f"*_{self._publisher.id.value}__*.data"):
            give_pages(path, needed_bytes)

    def loan(self, payload_bytes: int | None = None) -> Sample[Header]:
        """Borrow a sample to fill; its header is zeroed, its payload is not.

        Raises:
            TransportError: no sample is free, or there is no room for one of this size.
        """
        size = self.payload_bytes if payload_bytes is None else payload_bytes
        if size > self.payload_bytes:
            require_room(size * self._samples)
        try:
            loan = self._publisher.loan_slice_uninit(max(size, 1))
        except iox2.LoanError as error:
            raise TransportError(f"no free slot in shared memory ({error})") from error
        if size > self.payload_bytes:
            self.payload_bytes = 1 << (size - 1).bit_length()  # as the strategy `PowerOfTwo` does
            self._reserve(self.payload_bytes)
        address = loan.user_header_ptr
        ctypes.memset(address, 0, ctypes.sizeof(self._header))
        return Sample(loan, self._header.from_address(address), _bytes_at(loan.payload_ptr, size))

    def send(self, sample: Sample[Header]) -> None:
        """Hand a filled sample to the readers and wake them."""
        sample._loan.assume_init().send()
        self._notifier.notify()

    def send_record(self, record: ctypes.Structure) -> None:
        """Send a header without payload; the record may be another struct that fits into one."""
        sample = self.loan(0)
        at, to = ctypes.addressof(record), ctypes.addressof(sample.header)
        ctypes.memmove(to, at, ctypes.sizeof(record))
        self.send(sample)


class Reader(Generic[Header]):
    """The receiving end of a channel; made by `Endpoint.reader`.

    Attributes:
        listener: iceoryx2's listener, which is notified of each sample.
    """

    def __init__(self, subscriber: Any, listener: Any, header: type[Header]) -> None:
        self._subscriber = subscriber
        self.listener = listener
        self._header = header

    def has_samples(self) -> bool:
        """Whether a sample waits."""
        return bool(self._subscriber.has_samples())

    def wait(self, timeout_ms: float) -> None:
        """Sleep until a sample comes, or the timeout; a signal may end it early."""
        deadline_ns = time.monotonic_ns() + round(timeout_ms * 1e6)
        # Loop, because the notification may be of a sample that was read already.
        while not self.has_samples():
            left_ns = deadline_ns - time.monotonic_ns()
            if left_ns <= TIMEOUT_TICK_NS:
                return
            try:
                self.listener.timed_wait(iox2.Duration.from_nanos(left_ns))
            except iox2.ListenerWaitError:
                # A signal interrupted the wait; the caller checks its stop flag.
                return

    def receive(self) -> Sample[Header] | None:
        """Take the oldest waiting sample, None if there is none; the caller releases it."""
        if (loan := self._subscriber.receive()) is None:
            return None
        header = self._header.from_address(loan.user_header_ptr)
        size = int(loan.header.number_of_elements)
        return Sample(loan, header, _bytes_at(loan.payload_ptr, size))

    def newest(self) -> Sample[Header] | None:
        """Take the newest waiting sample, None if there is none; older ones are released unread."""
        newest = None
        while (sample := self.receive()) is not None:
            if newest is not None:
                newest.release()
            newest = sample
        return newest

    def records(self) -> list[Header]:
        """Take copies of all waiting headers, those of each sender oldest first."""
        found = []
        while (sample := self.receive()) is not None:
            found.append(self._header.from_buffer_copy(sample.header))
            sample.release()
        return found


class Waiter:
    """Waits for samples of any of several channels; made by `Endpoint.waiter`."""

    def __init__(self, waitset: Any, readers: Sequence[Reader[Any]]) -> None:
        self._waitset = waitset
        self._readers = readers

    def wait(self, timeout_ms: float) -> None:
        """Sleep until a sample comes, or the timeout; a signal may end it early."""
        deadline_ns = time.monotonic_ns() + round(timeout_ms * 1e6)
        while not any(reader.has_samples() for reader in self._readers):
            left_ns = deadline_ns - time.monotonic_ns()
            if left_ns <= 0:
                return
            timeout = iox2.Duration.from_nanos(left_ns)
            try:
                _, result = self._waitset.wait_and_process_with_timeout(timeout)
            except iox2.WaitSetRunError:
                return
            if result in SIGNALLED:
                return
            for reader in self._readers:
                # Notifications are cleared first: they may be of samples that were read already.
                while reader.listener.try_wait():
                    pass


@cache
def _array_type(bits: int) -> Any:
    """An array type for the next power of two: types for each size of a JPEG would pile up."""
    return ctypes.c_uint8 * (1 << bits)


def _bytes_at(address: int, size: int) -> NDArray[np.uint8]:
    return np.frombuffer(_array_type(size.bit_length()).from_address(address), np.uint8, size)
