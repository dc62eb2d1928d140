"""Where bench and unit of a scenario are: here, elsewhere, or in namespaces made for the run."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perception_nodes.config import SettingsError
from perception_nodes.environment import die_with_parent, stay_on_this_machine
from perception_nodes.hil.inject import has_small_shm
from perception_nodes.hil.judge import Verdict
from perception_nodes.hil.network import OWN_NETWORK, UNIT_ADDRESS, VARIABLE, Link, lacking
from perception_nodes.hil.run import Interrupted, run_here
from perception_nodes.hil.scenario import (
    Conditions,
    Expectation,
    NetworkFault,
    Scenario,
    ShmFullFault,
)
from perception_nodes.hil.scratch import scratch_folder
from perception_nodes.hil.unit import PORT, RemoteUnit

PRIVATE_SHM = 'mount -t tmpfs -o size="$0"m tmpfs /dev/shm && exec "$@"'
STATUS_UNUSABLE = 2
UNIT_SHM_MB = 1024
MAX_DOMAIN = 101
THIS_MACHINE = "127.0.0.1"


def run_scenario(
    scenario: Scenario, values: Mapping[str, Any], out: Path, unit: str = ""
) -> Verdict:
    """Run a scenario, its sides where they belong.

    Args:
        scenario: what to run.
        values: parameters of the graph that go before those of the scenario.
        out: folder; recordings and the nodes' messages are left there.
        unit: HOST:PORT of a unit that serves on another machine; else it is on this one.

    Raises:
        BagError, SettingsError, ModelError: unusable parameters.
        UnitError: the unit cannot be used.
        Interrupted: by the user.
    """
    if unit:
        return _on_a_unit(scenario, values, out, unit)
    if scenario.network is not None:
        return _over_a_network(scenario, scenario.network, values, out)
    stay_on_this_machine()
    small = [f for f in scenario.faults if isinstance(f, ShmFullFault) and not has_small_shm(f)]
    if small:
        prefix = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", PRIVATE_SHM)
        return _elsewhere((*prefix, str(small[0].size_mb)), scenario, values, out, {})
    if scenario.cameras > 1:
        return _with_second_camera(scenario, values, out)
    return run_here(scenario, values, out)


def _on_a_unit(scenario: Scenario, values: Mapping[str, Any], out: Path, unit: str) -> Verdict:
    """Run it on a vehicle computer, over a network that is as it is."""
    if {**scenario.graph, **values}.get("source") == "shm" or scenario.cameras > 1:
        return _not_run(scenario, "its camera is in the unit's own memory; run it there")
    if any(isinstance(fault, NetworkFault) for fault in scenario.faults):
        return _not_run(scenario, "the network to the unit is not ours to disturb")
    with RemoteUnit(unit) as remote:
        verdict = run_here(scenario, values, out, remote)
    verdict.notes.append("over the network as it is: its delay and losses are not ours")
    return verdict


def _over_a_network(
    scenario: Scenario, conditions: Conditions, values: Mapping[str, Any], out: Path
) -> Verdict:
    """Run it with bench and unit in namespaces of their own, or say what is not simulated."""
    if os.environ.get(VARIABLE):
        die_with_parent(int(os.environ[VARIABLE]))
        with Link(conditions) as link:
            # Memory of its own too: what it keeps there is gone with a reboot.
            place = ("unshare", "--mount", "sh", "-c", PRIVATE_SHM, str(UNIT_SHM_MB))
            unit = link.on_the_far_side(lambda: _start_unit(UNIT_ADDRESS, PORT, place))
            with _connected(unit, UNIT_ADDRESS, PORT) as remote:
                return run_here(scenario, values, out, remote, link)
    why = lacking()
    if not why:
        # Discovery is by multicast, in a network where nobody else is.
        environment = {VARIABLE: str(os.getpid()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
        return _elsewhere(OWN_NETWORK, scenario, values, out, environment)
    if any(isinstance(fault, NetworkFault) for fault in scenario.faults):
        return _not_run(scenario, f"the network cannot be simulated: {why}")
    stay_on_this_machine()
    port = _free_port()
    with _connected(_start_unit(THIS_MACHINE, port), THIS_MACHINE, port) as remote:
        verdict = run_here(scenario, values, out, remote)
    verdict.notes.append(f"over loopback, with no delay and no loss: {why}")
    return verdict


def _with_second_camera(scenario: Scenario, values: Mapping[str, Any], out: Path) -> Verdict:
    """Run it beside a second camera, whose graph must do as well as if nothing had happened."""
    expect = scenario.expect
    second = scenario.model_copy(
        update={
            "name": f"{scenario.name}_second",
            "cameras": 1,
            "faults": (),
            "expect": Expectation(
                lost=expect.lost,
                at_worst=expect.at_worst,
                miss_rate_at_most=expect.miss_rate_at_most,
                recovered_within_ms=expect.recovered_within_ms,
            ),
        }
    )
    domain = int(os.environ.get("ROS_DOMAIN_ID", "0"))
    # A domain of its own keeps its topics apart.
    environment = {"ROS_DOMAIN_ID": str(domain + 1 if domain < MAX_DOMAIN else domain - 1)}
    with ThreadPoolExecutor(1) as executor:
        beside = executor.submit(
            _elsewhere, (), second, {**values, "camera": "second"}, out, environment
        )
        verdict = run_here(scenario, values, out)
        other = beside.result()
    verdict.problems += [f"second camera: {problem}" for problem in other.problems]
    verdict.notes.append(
        f"second camera: {other.sent} frames, "
        + ", ".join(f"{count} {status}" for status, count in sorted(other.statuses.items()))
    )
    return verdict


def _elsewhere(
    prefix: Sequence[str],
    scenario: Scenario,
    values: Mapping[str, Any],
    out: Path,
    environment: Mapping[str, str],
) -> Verdict:
    """Run it in a process that another command makes a place for."""
    with scratch_folder() as folder:
        file = Path(folder) / f"{scenario.name}.yaml"
        file.write_text(scenario.model_dump_json(), encoding="utf-8")
        command = [
            *(*prefix, sys.executable, "-m", "perception_nodes.cli", "hil", "run", "--json"),
            *(str(file), "--out", str(out)),
            *(f"{name}:={value}" for name, value in values.items()),
        ]
        try:
            result = subprocess.run(
                command,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=False,
            )
        except KeyboardInterrupt as error:
            raise Interrupted(scenario.name) from error
    said = (result.stderr.strip().splitlines() or ["no message"])[-1]
    if result.returncode == STATUS_UNUSABLE:
        raise SettingsError(said.removeprefix("error: "))
    try:
        verdicts = json.loads(result.stdout)["verdicts"]
    except (ValueError, KeyError):
        return _not_run(scenario, f"{' '.join(prefix[:1])} status {result.returncode}: {said}")
    if not verdicts:
        raise Interrupted(scenario.name)
    return Verdict.model_validate(verdicts[0])


def _not_run(scenario: Scenario, why: str) -> Verdict:
    return Verdict(scenario=scenario.name, title=scenario.title, problems=[f"not run: {why}"])


def _start_unit(host: str, port: int, prefix: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
    """A process that serves as the unit, in a place that another command makes for it."""
    us = os.getpid()
    command = (*prefix, sys.executable, "-m", "perception_nodes.cli", "hil", "unit")
    return subprocess.Popen(
        [*command, "--listen", f"{host}:{port}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches us, and we stop it in order
        preexec_fn=lambda: die_with_parent(us),
    )


@contextmanager
def _connected(process: "subprocess.Popen[bytes]", host: str, port: int) -> Iterator[RemoteUnit]:
    """The unit that a process serves as, which ends with the context."""
    try:
        with RemoteUnit(f"{host}:{port}") as remote:
            yield remote
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.create_server((THIS_MACHINE, 0)) as server:
        return int(server.getsockname()[1])
