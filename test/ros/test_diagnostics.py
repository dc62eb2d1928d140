"""The diagnostic message: a status for the whole, and one for each fault that is looked for."""

from diagnostic_msgs.msg import DiagnosticStatus

from perception_nodes.core.budget import Budget
from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.records import Takeover
from perception_nodes.nodes.diagnostics import diagnostics
from perception_nodes.watchdog.account import Account, AccountSettings
from perception_nodes.watchdog.faults import FaultLimits
from perception_nodes.watchdog.health import HealthLimits


def test_every_fault_has_a_status_that_says_what_is_wrong(ros_domain, join, closed):
    limits = HealthLimits(), FaultLimits()
    settings = AccountSettings(Budget(), {"detector": 1}, 1000.0, *limits)
    account = closed(Account(join(), "front", settings, 0))
    account.watch.record(Takeover(predecessor=6, reason=b"detector 6 died"))
    account.health.frame(FrameStatus.OK, 1)
    account.step(1, 1)
    whole, *faults = diagnostics(account).status
    assert (whole.name, whole.level) == ("perception/front", DiagnosticStatus.ERROR)
    values = {pair.key: pair.value for pair in whole.values}
    assert values["takeovers"] == "1"
    assert values["frames_in"] == "0" and values["median_latency_ms"] == "nan"
    assert (values["mode"], float(values["missed_percent"])) == ("3", 100.0)
    by_name = {status.name: status for status in faults}
    assert by_name["perception/front/detector process"].level == DiagnosticStatus.ERROR
    assert by_name["perception/front/takeover"].level == DiagnosticStatus.WARN
    assert by_name["perception/front/takeover"].message == "detector 6 died"
    assert by_name["perception/front/no frame"].level == DiagnosticStatus.OK
    assert by_name["perception/front/accounting"].message == "ok"
