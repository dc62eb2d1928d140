"""The diagnostic message: a status for the whole, and one for each fault that is looked for."""

from diagnostic_msgs.msg import DiagnosticStatus

from perception_nodes.core.budget import Budget
from perception_nodes.core.frame import FrameRecord, FrameStatus, RecordKind
from perception_nodes.nodes.diagnostics import diagnostics
from perception_nodes.system.processes import open_process
from perception_nodes.watchdog.faults import FaultLimits
from perception_nodes.watchdog.health import Health, HealthLimits
from perception_nodes.watchdog.ledger import Ledger
from perception_nodes.watchdog.liveness import Roster
from perception_nodes.watchdog.watch import Watch

MS = 1_000_000


def test_every_fault_has_a_status_that_says_what_is_wrong() -> None:
    ledger, watch = Ledger(1000 * MS), Watch(Budget(), FaultLimits())
    health, roster = Health(HealthLimits(), 0), Roster({"detector": 1}, open_process)
    watch.tick(0, 1, 2, ledger)
    takeover = FrameRecord(kind=RecordKind.TAKEOVER, predecessor=6, reason=b"detector 6 died")
    watch.record(takeover)
    health.frame(FrameStatus.OK, 1)
    health.update([*roster.faults(), *watch.faults()], 1)
    whole, *faults = diagnostics("front", health, ledger, watch, roster).status
    assert (whole.name, whole.level) == ("perception/front", DiagnosticStatus.ERROR)
    values = {pair.key: pair.value for pair in whole.values}
    assert values["takeovers"] == "1"
    assert values["frames_in"] == "0"
    by_name = {status.name: status for status in faults}
    assert by_name["perception/front/detector process"].level == DiagnosticStatus.ERROR
    assert by_name["perception/front/takeover"].level == DiagnosticStatus.WARN
    assert by_name["perception/front/takeover"].message == "detector 6 died"
    assert by_name["perception/front/no frame"].level == DiagnosticStatus.OK
    assert by_name["perception/front/accounting"].message == "ok"
