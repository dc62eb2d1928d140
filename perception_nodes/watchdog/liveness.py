"""Who is alive: processes by their signs of life, and what the kernel knows of the silent ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from perception_nodes.core.frame import FrameRecord, RecordKind
from perception_nodes.system.processes import ProcessHandle, is_hung
from perception_nodes.watchdog.faults import MS, Fault, HealthMode

KILLED_AFTER_NS = 1_000_000_000
"""A hang that lasts for so long is ended by whoever watches. It is told at once, and a standby does
not wait for this; but one that was merely starved comes back sooner by itself than a new one."""


@dataclass
class Member:
    """A process that has been heard of."""

    role: str
    pid: int
    handle: ProcessHandle
    heard_ns: int = 0
    patience_ns: int = 0
    spent_ns: int = 0
    suspected_ns: int = -1
    silent_ns: int = 0
    hung: bool = False

    def __str__(self) -> str:
        return f"{self.role} {self.pid}"


class Roster:
    """The processes of a graph by role: who should be there, who is, who is gone and how."""

    def __init__(
        self, expected: Mapping[str, int], open_process: Callable[[int], ProcessHandle | None]
    ) -> None:
        """Nobody has been heard of.

        Args:
            expected: how many processes of each role there should be.
            open_process: gives a process's handle, None where it has ended already.
        """
        self._expected = expected
        self._open = open_process
        self._last_loss = dict.fromkeys(expected, "none has been heard of")
        self._judge_from_ns = 0
        self.members: dict[int, Member] = {}

    @property
    def roles(self) -> tuple[str, ...]:
        """Those that there should be."""
        return tuple(self._expected)

    def hear(self, role: str, record: FrameRecord) -> None:
        """Take a sign of life."""
        member = self.members.get(record.process)
        if record.kind == RecordKind.LEFT:
            if member is not None:
                self._remove(member, f"{member} has stopped")
            return
        if member is None:
            handle = self._open(record.process)
            if handle is None:  # its last words
                return
            member = self.members[record.process] = Member(role, record.process, handle)
        member.heard_ns = max(member.heard_ns, record.sent_ns)
        member.patience_ns, member.spent_ns = record.patience_ns, record.spent_ns

    def postpone(self, now_ns: int) -> None:
        """We were not there ourselves: silence counts from now on only."""
        self._judge_from_ns = now_ns

    def update(self, now_ns: int) -> list[Member]:
        """Judge all.

        Returns:
            Those that have ended since the last time.
        """
        died = [member for member in self.members.values() if not member.handle.is_alive()]
        for member in died:
            self._remove(member, f"{member} died")
        for member in self.members.values():
            member.silent_ns = silent_ns = now_ns - max(member.heard_ns, self._judge_from_ns)
            hung = is_hung(silent_ns, member.patience_ns, member.spent_ns, member.handle)
            # Twice: what it said while we looked would have come too late for the first time.
            member.hung = hung and member.suspected_ns == member.heard_ns
            member.suspected_ns = member.heard_ns if hung else -1
            if member.hung:
                self._last_loss[member.role] = (
                    f"{member} hangs: no sign of life for {silent_ns / MS:.0f} ms"
                )
        return died

    def end_hung(self) -> None:
        """Kill those that have been hanging for long, so that they are replaced."""
        for member in self.members.values():
            if member.hung and member.silent_ns > KILLED_AFTER_NS:
                member.handle.kill()

    def present(self, role: str) -> int:
        """Processes of a role that work."""
        return sum(m.role == role and not m.hung for m in self.members.values())

    def missing(self) -> list[str]:
        """Roles by name that have fewer processes than they should, a standby apart."""
        names = []
        for role, count in self._expected.items():
            present = self.present(role)
            if not present:
                names.append(role)
            if present < count and count > 1:
                names.append(f"{role} standby")
        return names

    def faults(self) -> list[Fault]:
        """A fault for each role that lacks processes; without any it cannot be relied on."""
        found = []
        for role, count in self._expected.items():
            present = self.present(role)
            if not present:
                text = f"no {role} is running: {self._last_loss[role]}"
                found.append(Fault(f"{role} process", text, HealthMode.UNSAFE))
            elif present < count:
                text = f"{role} has no standby: {self._last_loss[role]}"
                found.append(Fault(f"{role} process", text))
        return found

    def close(self) -> None:
        """Watch nobody any longer."""
        for member in self.members.values():
            member.handle.close()
        self.members.clear()

    def _remove(self, member: Member, how: str) -> None:
        self._last_loss[member.role] = how
        member.handle.close()
        del self.members[member.pid]
