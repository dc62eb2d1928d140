"""`hil run`: runs scenarios one after the other, each with bench and unit in their places.

They run on this machine, on two machines, or in network namespaces of their own.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from perception_nodes.core.errors import PerceptionError
from perception_nodes.faults import lossy_network as network
from perception_nodes.faults.address import PORT, is_loopback, joined_address, split_address
from perception_nodes.faults.inject import has_small_shm
from perception_nodes.faults.scenario import (
    Expectation,
    NetworkConditions,
    NetworkFault,
    Scenario,
    ShmFullFault,
)
from perception_nodes.faults.unit import TOKEN_VARIABLE, RemoteUnit
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.lab.results import Results
from perception_nodes.lab.scenario_run import run_here
from perception_nodes.system.children import NOTHING, end, start
from perception_nodes.system.environment import RANGE, SUBNET, die_with_parent, open_to_network

PRIVATE_SHM = 'mount -t tmpfs -o size="$0"m tmpfs /dev/shm && exec "$@"'
UNIT_SHM_MB = 1024
THIS_MACHINE = "127.0.0.1"
MODULE = "perception_nodes.lab.hil"
UNIT_START_TIMEOUT_S = 30.0


class NotRun(PerceptionError):
    """A scenario cannot be run here; the text says why."""


def run_scenarios(
    scenarios: Sequence[Scenario],
    out: Path,
    junit: Path | None,
    unit: str,
    begin: Callable[[int, Scenario], None],
) -> Results:
    """Run scenarios until the last one or until Ctrl-C, and write their results.

    Args:
        scenarios: what to run.
        out: folder for the results.
        junit: file for JUnit XML, if it is wanted.
        unit: HOST:PORT of a unit on another machine; empty for this machine.
        begin: called with the place and the scenario before each one.

    Raises:
        SettingsError: the disk is too full.
    """
    with Results(scenarios, out, junit) as results:
        for place, scenario in enumerate(scenarios):
            begin(place, scenario)
            begin_s = time.monotonic()
            try:
                verdict = run_scenario(scenario, out, unit)
            except KeyboardInterrupt:
                verdict = _failed(scenario, "interrupted before it was over")
                results.interrupted = True
            results.add(verdict, time.monotonic() - begin_s)
            if results.interrupted:
                break
    return results


def run_scenario(scenario: Scenario, out: Path, unit: str = "") -> ScenarioVerdict:
    """Run a scenario with bench and unit in their places; if it cannot be run, it has failed.

    Args:
        scenario: what to run.
        out: folder for recordings and the nodes' messages.
        unit: HOST:PORT of a unit on another machine; empty for this machine.

    Raises:
        KeyboardInterrupt: interrupted by the user; everything that was started is stopped.
    """
    try:
        return _run(scenario, out, unit)
    except (PerceptionError, OSError) as error:
        return _failed(scenario, "not run: " + " ".join(str(error).split()))
    except Exception as error:  # an error here must not cost the verdicts of the other scenarios
        with suppress(OSError):
            (out / f"{scenario.name}.log").write_text(traceback.format_exc(), encoding="utf-8")
        why = f"{type(error).__name__}: {error} (see {scenario.name}.log)"
        return _failed(scenario, f"not run: {why}")


def _run(scenario: Scenario, out: Path, unit: str) -> ScenarioVerdict:
    if unit:
        return _on_a_unit(scenario, out, unit)
    if scenario.network is not None:
        return _over_a_network(scenario, scenario.network, out)
    small = [f for f in scenario.faults if isinstance(f, ShmFullFault) and not has_small_shm(f)]
    if small:
        prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", PRIVATE_SHM)
        with child((*prefix, str(small[0].size_mb)), scenario, out) as verdict:
            return verdict()
    return _with_second_camera(scenario, out) if scenario.cameras > 1 else run_here(scenario, out)


def _on_a_unit(scenario: Scenario, out: Path, unit: str) -> ScenarioVerdict:
    """Run it on a vehicle computer, over the real network."""
    if scenario.graph.get("source") == "shm" or scenario.cameras > 1:
        raise NotRun("its camera is in the unit's own memory; run it there")
    if any(isinstance(fault, NetworkFault) for fault in scenario.faults):
        raise NotRun("the network to the unit is a real one and cannot be disturbed")
    if not is_loopback(split_address(unit)[0]):
        open_to_network()
    with RemoteUnit(unit) as remote:
        verdict = run_here(scenario, out, remote)
    verdict.notes.append("over a real network, with its own delay and losses")
    return verdict


def _over_a_network(
    scenario: Scenario, conditions: NetworkConditions, out: Path
) -> ScenarioVerdict:
    """Run it in two network namespaces; without these over loopback, if the faults allow it."""
    if os.environ.get(network.VARIABLE):
        with network.LossyLink(conditions) as link:
            # The unit has shared memory of its own too, which a reboot clears.
            place = ("unshare", "--mount", "sh", "-c", PRIVATE_SHM, str(UNIT_SHM_MB))
            process = link.in_unit_namespace(lambda: _start_unit(network.UNIT_ADDRESS, PORT, place))
            with _serving(process, network.UNIT_ADDRESS, PORT) as remote:
                return run_here(scenario, out, remote, link)
    if not (why := network.why_unavailable()):
        # Discover by multicast: nobody else is in this network.
        own = {network.VARIABLE: "1", RANGE: SUBNET}
        with child(network.OWN_NETWORK, scenario, out, own) as verdict_of:
            return verdict_of()
    if any(isinstance(fault, NetworkFault) for fault in scenario.faults):
        raise NotRun(f"the network cannot be simulated: {why}")
    with socket.create_server((THIS_MACHINE, 0)) as server:
        port = int(server.getsockname()[1])
    with _serving(_start_unit(THIS_MACHINE, port), THIS_MACHINE, port) as remote:
        verdict = run_here(scenario, out, remote)
    verdict.notes.append(f"over loopback, with no delay and no loss: {why}")
    return verdict


def _with_second_camera(scenario: Scenario, out: Path) -> ScenarioVerdict:
    """Run it beside a second camera, whose graph must not notice the faults."""
    own = {"lost", "lost_at_most", "miss_rate_at_most", "recovered_within_ms"}
    changes = {
        "name": scenario.runs[1],
        "cameras": 1,
        "graph": {**scenario.graph, "camera": "second"},
        "faults": (),
        "expect": Expectation(**scenario.expect.model_dump(include=own)),
    }
    with child((), scenario.model_copy(update=changes), out) as verdict_of:
        verdict = run_here(scenario, out)
        other = verdict_of()
    verdict.problems += [f"second camera: {problem}" for problem in other.problems]
    told = ", ".join(f"{count} {status}" for status, count in sorted(other.statuses.items()))
    verdict.notes.append(f"second camera: {other.sent} frames, {told}")
    return verdict


def _failed(scenario: Scenario, problem: str) -> ScenarioVerdict:
    return ScenarioVerdict(scenario=scenario.name, title=scenario.title, problems=[problem])


@contextmanager
def child(
    prefix: Sequence[str], scenario: Scenario, out: Path, environment: Mapping[str, str] = NOTHING
) -> Iterator[Callable[[], ScenarioVerdict]]:
    """Run a scenario in a child process; return a function that waits for its verdict.

    Args:
        prefix: a command that starts the child.
        scenario: what to run.
        out: folder for recordings and the nodes' messages.
        environment: further environment variables.
    """
    arguments = (scenario.model_dump_json(), str(out), str(os.getpid()))
    command = (*prefix, sys.executable, "-m", MODULE, *arguments)
    process = start(command, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def verdict() -> ScenarioVerdict:
        output, errors = process.communicate()
        try:
            return ScenarioVerdict.model_validate_json(output)
        except ValueError:
            said = (errors.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            why = f"its process ended with status {process.returncode}: {said}"
            return _failed(scenario, f"not run: {why}")

    try:
        yield verdict
    finally:
        end(process)


def _start_unit(host: str, port: int, prefix: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
    """Start a process that serves as the unit; the prefix is a command that starts it."""
    os.environ.setdefault(TOKEN_VARIABLE, secrets.token_hex())
    command = (*prefix, sys.executable, "-m", "perception_nodes", "hil", "unit")
    command = (*command, "--listen", joined_address(host, port))
    return start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def _serving(process: "subprocess.Popen[bytes]", host: str, port: int) -> Iterator[RemoteUnit]:
    """A connection to the unit that a process serves as; both end with the context."""
    try:
        with RemoteUnit(joined_address(host, port), UNIT_START_TIMEOUT_S) as remote:
            yield remote
    finally:
        end(process)


def main() -> int:
    """Entry point of a child process: runs a scenario and prints its verdict as JSON."""
    scenario, out, parent = sys.argv[1:]
    # Set it once more: the kernel resets it when the process enters a namespace.
    die_with_parent(int(parent))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        verdict = run_scenario(Scenario.model_validate_json(scenario), Path(out))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print(verdict.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
