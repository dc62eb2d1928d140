"""Which processes are alive, by their signs of life and by what the kernel knows of silent ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from perception_nodes.core.failover import ABSENT_AFTER_PATIENCES, KILLED_AFTER_NS, MS
from perception_nodes.core.frame import Record
from perception_nodes.core.health import HealthMode
from perception_nodes.core.records import Left
from perception_nodes.system.hanging import HangJudge
from perception_nodes.system.processes import Process
from perception_nodes.watchdog.faults import Fault


@dataclass
class Member:
    """A process that has given signs of life."""

    role: str
    pid: int
    handle: Process
    sender: int = 0
    heard_ns: int = 0
    patience_ns: int = 0
    spent_ns: int = 0
    silent_ns: int = 0
    hung: bool = False
    judge: HangJudge = field(default_factory=HangJudge)

    def __str__(self) -> str:
        return f"{self.role} {self.pid}"

    @property
    def is_absent(self) -> bool:
        """Whether it does no work, for whatever reason."""
        return self.hung or self.silent_ns > ABSENT_AFTER_PATIENCES * self.patience_ns


class Roster:
    """Lists a graph's processes by role: those expected, those alive, and how the others ended."""

    def __init__(
        self, expected: Mapping[str, int], open_ours: Callable[[int], Process | None]
    ) -> None:
        """Start without any process.

        Args:
            expected: how many processes of each role there should be.
            open_ours: gives a process's handle; None if it has ended already, or is a stranger.
        """
        self._expected = expected
        self._open = open_ours
        self._last_loss = dict.fromkeys(expected, "none has been heard of")
        self._judge_from_ns = 0
        self.members: dict[int, Member] = {}

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that should be filled."""
        return tuple(self._expected)

    def hear(self, role: str, record: Record) -> None:
        """Take a sign of life."""
        member = self.members.get(record.process)
        if isinstance(record, Left):
            if member is not None:
                self._remove(member, f"{member} has stopped")
            return
        if member is None:
            if (handle := self._open(record.process)) is None:
                return
            member = Member(role, record.process, handle, record.sender)
            self.members[record.process] = member
        if record.sent_ns >= member.heard_ns:
            member.heard_ns = record.sent_ns
            member.patience_ns, member.spent_ns = record.patience_ns, record.spent_ns

    def postpone(self, now_ns: int) -> None:
        """Count silence from now on only, since we were not running ourselves."""
        self._judge_from_ns = now_ns

    def update(self, now_ns: int) -> list[Member]:
        """Judge which processes are dead or hang.

        Returns:
            Those that have died since the last call.
        """
        died = [member for member in self.members.values() if not member.handle.is_alive()]
        for member in died:
            self._remove(member, f"{member} died")
        for member in self.members.values():
            member.silent_ns = silent_ns = now_ns - max(member.heard_ns, self._judge_from_ns)
            member.hung = member.judge.update(
                member.heard_ns, silent_ns, member.patience_ns, member.spent_ns, member.handle.look
            )
            if member.is_absent:
                how = "hangs" if member.hung else "is kept from running"
                silent = f"no sign of life for {silent_ns / MS:.0f} ms"
                self._last_loss[member.role] = f"{member} {how}: {silent}"
        return died

    def end_hung(self) -> None:
        """Kill processes that have been hanging for long, so that they are replaced."""
        for member in self.members.values():
            if member.hung and member.silent_ns > KILLED_AFTER_NS:
                member.handle.kill()

    def present(self, role: str) -> int:
        """How many processes of a role are alive, do not hang, and are not kept from running."""
        return sum(m.role == role and not m.is_absent for m in self.members.values())

    def silent(self) -> set[int]:
        """The numbers of the processes whose next sign of life is overdue."""
        return {m.pid for m in self.members.values() if m.silent_ns > m.patience_ns}

    def missing(self) -> list[str]:
        """The names of roles without a process, and of those without a standby."""
        names = []
        for role, count in self._expected.items():
            if not (present := self.present(role)):
                names.append(role)
            if present < count and count > 1:
                names.append(f"{role} standby")
        return names

    def faults(self) -> list[Fault]:
        """A fault for each role that lacks processes; without any process the mode is UNSAFE."""
        found = []
        for role, count in self._expected.items():
            if not (present := self.present(role)):
                text = f"no {role} is running: {self._last_loss[role]}"
                found.append(Fault(f"{role} process", text, HealthMode.UNSAFE))
            elif present < count:
                text = f"{role} has no standby: {self._last_loss[role]}"
                found.append(Fault(f"{role} process", text))
        return found

    def close(self) -> None:
        """Stop watching."""
        for member in self.members.values():
            member.handle.close()
        self.members.clear()

    def _remove(self, member: Member, how: str) -> None:
        self._last_loss[member.role] = how
        member.handle.close()
        del self.members[member.pid]
