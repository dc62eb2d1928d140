"""Makes a diagnostic message of a camera's account: one status for all, and one for each fault."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from perception_nodes.core.frame import IN_TIME
from perception_nodes.core.health import HealthMode
from perception_nodes.watchdog.account import Account
from perception_nodes.watchdog.faults import Fault

LEVELS = {
    HealthMode.NOMINAL: DiagnosticStatus.OK,
    HealthMode.DEGRADED: DiagnosticStatus.WARN,
    HealthMode.SKIPPING: DiagnosticStatus.WARN,
    HealthMode.UNSAFE: DiagnosticStatus.ERROR,
}


def diagnostics(account: Account) -> DiagnosticArray:
    """The present state of a camera's graph; the caller sets the stamp."""
    ledger, watch, roster = account.ledger, account.watch, account.roster
    health, camera = account.health, account.camera
    values: dict[str, object] = {status.name: count for status, count in ledger.counts.items()}
    in_time = sum(ledger.counts[status] for status in IN_TIME)
    ended = max(sum(ledger.counts.values()), 1)
    values |= {
        "mode": int(health.mode),
        "missed_percent": round(100 * (1 - in_time / ended), 3),
        "median_latency_ms": round(watch.median_ms, 3),
        "frames_in": ledger.frames_in,
        "in_flight": ledger.in_flight,
        "repeated_outcomes": ledger.repeated_outcomes,
        "records_lost": ledger.records_lost,
        "takeovers": watch.takeovers,
        "watchdog_starved": watch.starved,
        "processes": ", ".join(map(str, roster.members.values())),
    }
    base = f"perception/{camera}"
    whole = _status(health.mode, base, f"{health.mode.name}: {health.cause}", camera)
    whole.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    present: dict[str, Fault | None] = {f"{role} process": None for role in roster.roles}
    present |= {fault.name: fault for fault in roster.faults()} | dict(watch.statuses())
    found = [whole]
    for name, fault in present.items():
        # A fault that harms no frames yet is only a warning.
        mode = HealthMode.NOMINAL if fault is None else max(fault.mode, HealthMode.DEGRADED)
        found.append(_status(mode, f"{base}/{name}", "ok" if fault is None else fault.text, camera))
    return DiagnosticArray(status=found)


def _status(mode: HealthMode, name: str, text: str, camera: str) -> DiagnosticStatus:
    return DiagnosticStatus(level=LEVELS[mode], name=name, message=text, hardware_id=camera)
