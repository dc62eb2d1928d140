"""The records that processes send to the watchdog: each one once, even if its sender has died."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from perception_nodes.core.frame import FrameRecord, Record
from perception_nodes.core.records import Heartbeat, Left, as_sent
from perception_nodes.system.processes import Process, open_process
from perception_nodes.transport import channels
from perception_nodes.transport.journal import Signs, journal_of, journals, read_journal
from perception_nodes.transport.shm import Endpoint, Reader
from perception_nodes.watchdog.book import FORGOTTEN_AFTER_NS


class Inbox:
    """Reads the channels, and the journals where a channel is not enough.

    A record has the same number in both. The records of a process are taken in order, so all with
    higher numbers than the last one taken are new.
    """

    def __init__(
        self, endpoint: Endpoint, camera: str, roles: Sequence[str], kept_for_ns: int
    ) -> None:
        """Join the channels.

        Args:
            endpoint: ours.
            camera: the camera whose frames the records are about.
            roles: roles whose channels and journals to read, in this order.
            kept_for_ns: how long the journal of a dead process is kept after it was read: the next
                watchdog needs it if we die before everything in it is reported.
        """
        self._camera, self._roles, self._kept_for_ns = camera, roles, kept_for_ns
        self._readers = {role: channels.record_reader(endpoint, camera, role) for role in roles}
        self._signs: dict[int, tuple[str, Signs]] = {}
        self._taken: dict[int, int] = {}
        self._spent: dict[int, tuple[int, Path, Process | None]] = {}

    @property
    def first(self) -> Reader[FrameRecord]:
        """The channel of the first role."""
        return self._readers[self._roles[0]]

    def receive(self) -> list[tuple[str, Record]]:
        """All records that came through the channels, each with the role of its sender."""
        return [(role, as_sent(r)) for role in self._roles for r in self._readers[role].records()]

    def signs(self) -> Iterator[tuple[str, Record]]:
        """The new signs of life in journals, each with the role of its process."""
        for role, signs in self._signs.values():
            sign = signs.new()
            if sign is not None:
                yield role, sign

    def take(self, role: str, record: Record) -> list[Record]:
        """Take a record that came through a channel.

        Args:
            role: of the sender.
            record: the record.

        Returns:
            The record if it is new, after those before it that the channel has lost.
        """
        if isinstance(record, Left):
            path = journal_of(self._camera, role, record.process)
            handle = open_process(record.process)
            self._spend(record.sent_ns, record.process, path, handle)
            self._forget_signs(record.process)
        elif isinstance(record, Heartbeat) or record.process not in self._signs:
            self._look_for_signs(role, record.process)
        lost: list[Record] = []
        if record.record > self._taken.get(record.process, -1) + 1:
            journalled = read_journal(journal_of(self._camera, role, record.process))
            forgotten_ns = record.sent_ns - FORGOTTEN_AFTER_NS
            lost = [r for r in journalled if r.record < record.record and r.sent_ns > forgotten_ns]
        return self.new([*lost, record])

    def new(self, records: Sequence[Record]) -> list[Record]:
        """Take the new records of one process."""
        fresh = []
        for record in records:
            if record.record > self._taken.get(record.process, -1):
                self._taken[record.process] = record.record
                fresh.append(record)
        return fresh

    def recover(self, now_ns: int) -> list[Record]:
        """Take what the watchdog before us may not have read, from living and dead processes."""
        records = []
        for role in self._roles:
            for process, path in journals(self._camera, role).items():
                found = read_journal(path)
                records += self.new([r for r in found if now_ns - r.sent_ns < FORGOTTEN_AFTER_NS])
                handle = open_process(process)
                if handle is None:
                    self._spend(now_ns, process, path, None)
                else:
                    handle.close()
                    self._look_for_signs(role, process)
        return records

    def last_words(self, role: str, process: int, now_ns: int) -> list[Record]:
        """Take the records of a dead process that did not reach us through its channel."""
        path = journal_of(self._camera, role, process)
        self._spend(now_ns, process, path, None)
        self._forget_signs(process)
        return self.new(read_journal(path))

    def close(self) -> None:
        """Unmap the journals."""
        for process in list(self._signs):
            self._forget_signs(process)
        for process in list(self._spent):
            self._no_longer_spent(process)

    def _spend(self, now_ns: int, process: int, path: Path, handle: Process | None) -> None:
        """Forget a process some time after now, even if it left before."""
        self._no_longer_spent(process)
        self._spent[process] = now_ns, path, handle

    def _no_longer_spent(self, process: int) -> None:
        _, _, handle = self._spent.pop(process, (0, None, None))
        if handle is not None:
            handle.close()

    def _look_for_signs(self, role: str, process: int) -> None:
        """Map the journal of a process that begins to work; it may have a new one."""
        self._forget_signs(process)
        with suppress(OSError, ValueError):
            signs = Signs(journal_of(self._camera, role, process), process)
            self._signs[process] = role, signs

    def _forget_signs(self, process: int) -> None:
        _, signs = self._signs.pop(process, ("", None))
        if signs is not None:
            signs.close()

    def remove_spent(self, now_ns: int) -> None:
        """Forget the processes that ended long ago: their numbers may be used again."""
        for process, (ended_ns, path, handle) in list(self._spent.items()):
            if now_ns - ended_ns <= self._kept_for_ns:
                continue
            if handle is not None and handle.is_alive():  # it has left, and may come back
                self._spent[process] = now_ns, path, handle
                continue
            self._no_longer_spent(process)
            self._taken.pop(process, None)
            self._forget_signs(process)
            path.unlink(missing_ok=True)
