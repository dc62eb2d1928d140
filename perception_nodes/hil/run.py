"""Runs a scenario: starts the graph, puts the fault in, lets a witness watch, has it judged."""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception_nodes.backends.faulty import VARIABLE
from perception_nodes.demo import last_error
from perception_nodes.environment import stay_on_this_machine
from perception_nodes.graph import HIL, NodeSpec
from perception_nodes.hil.inject import (
    NotInjected,
    Target,
    has_small_shm,
    healthy_orders,
    injected,
)
from perception_nodes.hil.judge import Verdict, judge
from perception_nodes.hil.scenario import BackendFault, CameraFault, Scenario, ShmFullFault
from perception_nodes.hil.witness import Seen
from perception_nodes.replay.recording import RecordingError
from perception_nodes.supervisor import GraphFailure, Supervisor

POLL_S = 0.01
PRIVATE_SHM = 'mount -t tmpfs -o size="$0"m tmpfs /dev/shm && exec "$@"'


class Interrupted(Exception):
    """The user ended the run."""


def run_scenario(scenario: Scenario, values: Mapping[str, Any], out: Path) -> Verdict:
    """Run a scenario.

    Args:
        scenario: what to run.
        values: parameters of the graph that go before those of the scenario.
        out: folder; a recording and the nodes' messages are left there.

    Raises:
        SettingsError, ModelError: unusable parameters.
        Interrupted: by the user.
    """
    fault = scenario.fault
    if isinstance(fault, ShmFullFault) and not has_small_shm(fault):
        return _in_private_shm(scenario, fault, values, out)
    stay_on_this_machine()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="perception_hil_") as folder:
        seen = _Run(scenario, values, Path(folder), out).watch()
    return judge(scenario, seen)


class _Run:
    """One run of a scenario and its files."""

    def __init__(
        self, scenario: Scenario, values: Mapping[str, Any], folder: Path, out: Path
    ) -> None:
        self._scenario = scenario
        self._orders = folder / "orders.json"
        self._started, self._sent = folder / "started", folder / "sent.json"
        self._recording = out / f"{scenario.name}.mcap"
        self._log = out / f"{scenario.name}.log"
        self._values = {**scenario.graph, **values}
        self._over = threading.Event()
        self._seen = Seen()

    def watch(self) -> Seen:
        """Run it, and gather what was seen."""
        specs = self._specs()
        self._recording.unlink(missing_ok=True)
        interrupted = False
        with self._log.open("wb") as log, Supervisor(specs, log=log) as graph:
            injector = threading.Thread(target=self._inject, args=(graph,))
            injector.start()
            try:
                interrupted = not graph.wait()
            except GraphFailure as error:
                self._seen.failure = f"{error}: {last_error(self._log)}"
            finally:
                self._over.set()
                injector.join()
        if interrupted:
            raise Interrupted(self._scenario.name)
        return self._gathered()

    def _specs(self) -> list[NodeSpec]:
        fault = self._scenario.fault
        values = {
            "bag": self._scenario.drive,
            **self._values,
            "listeners": 1,
            "live": False,
            "recording": str(self._recording.resolve()),
            "sent_file": str(self._sent),
            "started_file": str(self._started),
        }
        if isinstance(fault, CameraFault):
            values["fault"] = fault.model_dump_json()
        if isinstance(fault, BackendFault):
            values["backend"] = "faulty"
            healthy_orders(fault).write(self._orders)
        environment = {VARIABLE: str(self._orders)}
        return [
            replace(spec, environment={**spec.environment, **environment})
            if spec.executable == "detector_node" and isinstance(fault, BackendFault)
            else spec
            for spec in HIL.nodes(values)
        ]

    def _inject(self, graph: Supervisor) -> None:
        """Wait for the camera's first frame, then for the fault's time, and put it in."""
        fault, seen = self._scenario.fault, self._seen
        while not self._started.is_file():
            if self._over.wait(POLL_S):
                return
        seen.first_ns = int(self._started.read_text(encoding="utf-8"))
        seen.begin_ns = seen.first_ns + round(fault.after_s * 1e9)
        if self._over.wait(max(0.0, (seen.begin_ns - time.time_ns()) / 1e9)):
            return
        target = Target(graph, self._values.get("camera", "front"), self._orders)
        try:
            if not isinstance(fault, CameraFault):
                seen.begin_ns = time.time_ns()
            seen.end_ns = seen.begin_ns + round(fault.for_s * 1e9)
            with injected(fault, target):
                self._over.wait(max(0.0, (seen.end_ns - time.time_ns()) / 1e9))
        except NotInjected as error:
            seen.failure = f"the fault was not put in: {error}"

    def _gathered(self) -> Seen:
        seen = self._seen
        if self._sent.is_file():
            content = json.loads(self._sent.read_text(encoding="utf-8"))
            seen.sent = [stamp_ns for _, stamp_ns in content["sent"]]
        elif not seen.failure:
            seen.failure = "the camera ended without a list of its frames"
        try:
            seen.read(self._recording)
        except RecordingError as error:
            seen.failure = seen.failure or str(error)
        return seen


def _in_private_shm(
    scenario: Scenario, fault: ShmFullFault, values: Mapping[str, Any], out: Path
) -> Verdict:
    """Run it where `/dev/shm` is small and nobody else's: in a mount namespace of its own."""
    with tempfile.TemporaryDirectory(prefix="perception_hil_") as folder:
        file = Path(folder) / "scenario.yaml"
        file.write_text(scenario.model_dump_json(), encoding="utf-8")
        result = subprocess.run(
            [
                *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", PRIVATE_SHM),
                str(fault.size_mb),
                *(sys.executable, "-m", "perception_nodes.cli", "hil", "run", "--json"),
                *(str(file), "--out", str(out)),
                *(f"{name}:={value}" for name, value in values.items()),
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    try:
        return Verdict.model_validate(json.loads(result.stdout)["verdicts"][0])
    except (ValueError, KeyError, IndexError):
        problem = (
            "not run: a private /dev/shm is not to be had (unshare, status "
            f"{result.returncode}), and the machine's is too large to fill"
        )
        return Verdict(scenario=scenario.name, title=scenario.title, problems=[problem])
