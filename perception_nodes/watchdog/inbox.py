"""The records that processes send to the watchdog: each one once, even if its sender has died."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from perception_nodes.core.frame import FrameRecord, Record
from perception_nodes.core.records import Heartbeat, Left, as_sent, bounded
from perception_nodes.system.life import is_supervised
from perception_nodes.transport import channels
from perception_nodes.transport.journal import Signs, journal_of, journals, process_of, read_journal
from perception_nodes.transport.shm import Endpoint, Reader
from perception_nodes.watchdog.book import FORGOTTEN_AFTER_NS
from perception_nodes.watchdog.ledger import MAX_JUMP


class Inbox:
    """Reads the channels, and the journals where a channel is not enough.

    A record has the same number in both. The records of a process are taken in order, so all with
    higher numbers than the last one taken are new. Processes are known by their incarnations.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        camera: str,
        roles: Sequence[str],
        kept_for_ns: int,
        told: Mapping[int, int],
    ) -> None:
        """Join the channels.

        Args:
            endpoint: ours.
            camera: the camera whose frames the records are about.
            roles: roles whose channels and journals to read, in this order.
            kept_for_ns: how long the journal of a dead process is kept after it was read: the next
                watchdog needs it if we die before everything in it is reported.
            told: how many records watchdogs before us have taken from each process.
        """
        self._camera, self._roles, self._kept_for_ns = camera, roles, kept_for_ns
        self._told = told
        self._readers = {role: channels.record_reader(endpoint, camera, role) for role in roles}
        self._signs: dict[int, tuple[str, Signs]] = {}
        self._taken: dict[int, int] = {}
        self._dead: set[int] = set()
        self._swept_ns = 0

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
            if (sign := signs.new()) is not None:
                yield role, sign

    def take(self, role: str, record: Record) -> list[Record]:
        """Take a record that came through a channel.

        Args:
            role: of the sender.
            record: the record.

        Returns:
            The record if it is new, after those before it that the channel has lost.
        """
        sender, path = record.sender, journal_of(self._camera, role, record.sender)
        if isinstance(record, Left):
            self._forget_signs(sender)
        elif isinstance(record, Heartbeat) or sender not in self._signs:
            self._look_for_signs(role, sender)
        lost: list[Record] = []
        if record.record > self._taken.get(sender, -1) + 1:
            journalled = self._kept(read_journal(path), record.sent_ns)
            lost = [r for r in journalled if r.record < record.record]
        return self.new([*lost, record])

    def new(self, records: Sequence[Record]) -> list[Record]:
        """Take the new records of one process."""
        fresh, now_ns = [], time.monotonic_ns()
        for record in records:
            # One whose number is out of all proportion is damaged.
            if 0 < record.record - self._taken.get(record.sender, -1) < MAX_JUMP:
                self._taken[record.sender] = record.record
                fresh.append(bounded(record, now_ns))
        return fresh

    def recover(self, now_ns: int) -> list[Record]:
        """Take what the watchdog before us may not have read, from living and dead processes."""
        records = []
        for role in self._roles:
            for sender, path in journals(self._camera, role).items():
                records += self.new(self._kept(read_journal(path), now_ns))
                self._look_for_signs(role, sender)
        return records

    def last_words(self, role: str, sender: int) -> list[Record]:
        """Take the records of a dead process that did not reach us through its channel."""
        self._forget_signs(sender)
        return self.new(read_journal(journal_of(self._camera, role, sender)))

    def close(self) -> None:
        """Unmap the journals."""
        for sender in list(self._signs):
            self._forget_signs(sender)

    def _kept(self, records: list[Record], now_ns: int) -> list[Record]:
        """The records that can be of this graph.

        A supervisor has removed those of the graph before. Without one only their age tells, or
        that a watchdog before us has taken earlier ones of the process.
        """
        if is_supervised():
            return records
        since_ns, told = now_ns - FORGOTTEN_AFTER_NS, self._told
        return [
            r for r in records if r.sent_ns > since_ns or r.record >= told.get(r.sender, MAX_JUMP)
        ]

    def _look_for_signs(self, role: str, sender: int) -> None:
        """Map the journal of a process that begins to work; it may have a new one."""
        self._forget_signs(sender)
        with suppress(OSError, ValueError):
            self._signs[sender] = role, Signs(journal_of(self._camera, role, sender))

    def _forget_signs(self, sender: int) -> None:
        _, signs = self._signs.pop(sender, ("", None))
        if signs is not None:
            signs.close()

    def remove_spent(self, now_ns: int) -> None:
        """Remove the journals of processes that ended long ago; to be called now and then."""
        if now_ns - self._swept_ns < self._kept_for_ns:
            return
        before, self._dead, self._swept_ns = self._dead, set(), now_ns
        with suppress(OSError):  # no descriptor may be left
            for role in self._roles:
                for sender, path in journals(self._camera, role).items():
                    process = process_of(path)
                    if not process or Path(f"/proc/{process}").exists():
                        continue
                    self._dead.add(sender)
                    if sender in before:
                        self._taken.pop(sender, None)
                        self._forget_signs(sender)
                        path.unlink(missing_ok=True)
