"""Runs a scenario: plays the drive, puts the faults in, records what comes out, has it judged.

The bench is this process with the camera and the witness. The unit is the graph of the vehicle, on
this machine or behind a `RemoteUnit`.
"""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception_nodes.core.errors import PerceptionError
from perception_nodes.faults.clock_offset import measure_offset
from perception_nodes.faults.drive import needs_preparation, prepare
from perception_nodes.faults.graphs import BENCH, HIL
from perception_nodes.faults.inject import NotInjected, Target, put_in, with_faulty_backend
from perception_nodes.faults.lossy_network import LossyLink
from perception_nodes.faults.scenario import (
    UNDISTURBED_S,
    CameraFault,
    Fault,
    NetworkFault,
    PictureFault,
    Scenario,
    SubscriberFault,
)
from perception_nodes.faults.scratch import scratch_folder
from perception_nodes.faults.unit import RemoteUnit, UnitError
from perception_nodes.graph.graph import LIVE
from perception_nodes.graph.node_spec import NodeSpec
from perception_nodes.graph.supervisor import GraphFailure, Supervisor, last_error
from perception_nodes.lab.judge import Verdict, judge
from perception_nodes.lab.undisturbed import agreement_share, detect_undisturbed
from perception_nodes.lab.witness import Observations
from perception_nodes.report.recording import read_recording
from perception_nodes.system.environment import profiles_variable, share_folder
from perception_nodes.system.files import write_whole

POLL_S = 0.01
FAILURE_POLL_S = 0.5
REPAIR_S = 4.0
"""A reliable reader asks for a lost sample after the writer's next heartbeat, up to 3 s later."""


def run_here(
    scenario: Scenario,
    out: Path,
    unit: RemoteUnit | None = None,
    link: LossyLink | None = None,
) -> Verdict:
    """Run a scenario from this process.

    Args:
        scenario: what to run.
        out: folder for a recording and the nodes' messages.
        unit: where the graph runs; None for beside the camera.
        link: the network to the unit, if it is a simulated one.

    Raises:
        BagError, SettingsError, ModelError: unusable parameters.
        UnitError: the unit cannot be used.
        KeyboardInterrupt: interrupted by the user.
    """
    out.mkdir(parents=True, exist_ok=True)
    with scratch_folder() as folder:
        run = _Run(scenario, Path(folder), out, unit, link)
        return judge(scenario, run.watch(), run.parameters["deadline_ms"])


class _Run:
    """One run of a scenario, and its files."""

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        out: Path,
        unit: RemoteUnit | None,
        link: LossyLink | None,
    ) -> None:
        self._scenario, self._unit, self._link = scenario, unit, link
        self._orders = folder / "orders.json"
        self._started, self._sent = folder / "started", folder / "sent.json"
        self._played_file = folder / "played.json"
        self._played, self._undisturbed = folder / "played.mcap", folder / "undisturbed.mcap"
        # A recording goes to the results when it is complete.
        self._recording, self._kept = folder / "recording.mcap", out / f"{scenario.name}.mcap"
        self._log = out / f"{scenario.name}.log"
        self._frames_changed: dict[int, int] = {}
        self._specs = self._prepared_specs()
        self.parameters = {k: v for spec in self._specs for k, v in spec.parameters.items()}
        self._over = threading.Event()
        self._put_in: dict[int, tuple[int, int]] = {}
        self._not_put_in: dict[int, str] = {}
        self._seen = Observations()

    def watch(self) -> Observations:
        """Run the scenario, and gather the observations."""
        specs = self._specs
        if self._unit is not None:
            executables = {kind.executable for kind in BENCH.kinds}
            specs = [_over_the_network(s) for s in specs if s.executable in executables]
            self._unit.start(self._scenario, self._unit_values())
            self._seen.clock = measure_offset(self._unit.clock)
        with self._log.open("wb") as log, Supervisor(specs, log=log) as graph:
            completed = self._play(graph)
            if self._unit is not None:
                if any(isinstance(fault, NetworkFault) for fault in self._scenario.faults):
                    time.sleep(REPAIR_S)
                # Before the witness, which listens until the graph is silent.
                self._stop_unit(self._unit)
        if not completed and not self._seen.failure:
            raise KeyboardInterrupt
        return self._gathered()

    def _play(self, graph: Supervisor) -> bool:
        """Wait until the drive is over; False if the run ended before."""
        threads = [
            threading.Thread(target=self._inject, args=(number, fault, graph))
            for number, fault in enumerate(self._scenario.faults)
        ]
        if self._unit is not None:
            threads.append(threading.Thread(target=self._look_after, args=(self._unit, graph)))
        for thread in threads:
            thread.start()
        try:
            return graph.wait()
        except GraphFailure as error:
            self._seen.failure = f"{error}: {last_error(self._log)}"
            return False
        finally:
            self._over.set()
            for thread in threads:
                thread.join()

    def _prepared_specs(self) -> list[NodeSpec]:
        scenario, faults = self._scenario, self._scenario.faults
        drive, values = scenario.drive, dict(scenario.graph)
        if needs_preparation(scenario):
            self._frames_changed = prepare(scenario, self._played, disturbed=True)
            drive = str(self._played)
            values.pop("topic", None)  # it is that of the recorded drive
        camera_faults = [f.model_dump(mode="json") for f in faults if isinstance(f, CameraFault)]
        specs = HIL.nodes(
            {
                **values,
                "bag": drive,
                "listeners": 1,
                "live": False,
                "record_protected": True,
                "faults": json.dumps(camera_faults),
                "recording": str(self._recording.resolve()),
                "sent_file": str(self._sent),
                "started_file": str(self._started),
                "played_file": str(self._played_file),
            }
        )
        return with_faulty_backend(specs, faults, self._orders)

    def _unit_values(self) -> dict[str, Any]:
        """Parameters of the graph on the unit: the scenario's, and one that the drive decides."""
        own = {name: v for name, v in self._scenario.graph.items() if name in LIVE.parameters}
        return {**own, "image_transport": self.parameters["image_transport"]}

    def _stop_unit(self, unit: RemoteUnit) -> None:
        try:
            failure, log = unit.failure(), unit.stop()
        except UnitError as error:
            failure, log = str(error), f"{error}\n"
        self._seen.failure = self._seen.failure or failure
        self._log.with_suffix(".unit.log").write_text(log, encoding="utf-8")

    def _look_after(self, unit: RemoteUnit, graph: Supervisor) -> None:
        """End the run if the graph on the unit has ended."""
        while not self._over.wait(FAILURE_POLL_S):
            try:
                failure = unit.failure()
            except UnitError as error:
                failure = str(error)
            if failure:
                self._seen.failure = failure
                graph.stop()
                return

    def _inject(self, number: int, fault: Fault, graph: Supervisor) -> None:
        """Wait for the first frame, then for the time of the fault, and put it in."""
        self._not_put_in[number] = "the run was over before its time"
        while not self._started.is_file():
            if self._over.wait(POLL_S):
                return
        first_ns = int(self._started.read_text(encoding="utf-8"))
        begin_ns = first_ns + round(fault.after_s * 1e9)
        if self._over.wait(max(0.0, (begin_ns - time.time_ns()) / 1e9)):
            return
        try:
            if isinstance(fault, CameraFault | PictureFault):
                self._over.wait(fault.for_s)  # the camera itself does it
            else:
                begin_ns = time.time_ns()
                self._put(fault, graph)
        except Exception as error:  # whatever it was, the scenario did not happen as written
            known = isinstance(error, PerceptionError)
            self._not_put_in[number] = str(error) if known else f"{type(error).__name__}: {error}"
            return
        end_ns = begin_ns + round(fault.for_s * 1e9)
        if isinstance(fault, SubscriberFault):
            end_ns = time.time_ns()  # its time ran from when it listened
        self._put_in[number] = begin_ns, end_ns
        del self._not_put_in[number]

    def _put(self, fault: Fault, graph: Supervisor) -> None:
        """Put a fault in from outside, and return when it is over."""
        if isinstance(fault, NetworkFault):
            self._disturb_network(fault)
        elif self._unit is not None:
            self._unit.put_in(fault)
        else:
            camera = str(self.parameters["camera"])
            put_in(fault, Target(graph, camera, self._orders), self._over.wait)

    def _disturb_network(self, fault: NetworkFault) -> None:
        if self._link is None:
            raise NotInjected("the network between bench and unit is a real one")
        changed = self._link.changed
        before, self._link.conditions = self._link.conditions, fault
        self._over.wait(fault.for_s)
        self._link.conditions = before
        if self._link.changed == changed:
            raise NotInjected("it changed the way of no packet")

    def _gathered(self) -> Observations:
        seen = self._seen
        sent: dict[int, int] = {}
        if self._started.is_file():
            seen.first_ns = int(self._started.read_text(encoding="utf-8"))
        if self._sent.is_file():
            content = json.loads(self._sent.read_text(encoding="utf-8"))
            played = json.loads(self._played_file.read_text(encoding="utf-8"))
            stamps = [stamp_ns for _, stamp_ns in content["sent"]]
            end = len(stamps) - played["closing"]
            seen.sent, seen.closing = stamps[:end], stamps[end:]
            seen.late = [(stamp_ns, late_ns) for stamp_ns, late_ns in played["late"]]
            faults = enumerate(self._scenario.faults)
            of_camera = [number for number, fault in faults if isinstance(fault, CameraFault)]
            self._frames_changed.update(zip(of_camera, played["hits"], strict=True))
            sent = {stamp_ns: index for index, stamp_ns in content["sent"][:end]}
        elif not seen.failure:
            seen.failure = "the camera ended without a list of its frames"
        self._note_faults()
        undisturbed_ns = seen.first_ns + round(UNDISTURBED_S * 1e9)
        seen.begin_ns = min((begin_ns for _, begin_ns, _ in seen.faults), default=undisturbed_ns)
        seen.end_ns = max((end_ns for _, _, end_ns in seen.faults), default=undisturbed_ns)
        try:
            seen.read(self._recording, self.parameters["deadline_ms"])
            if not self._scenario.faults:
                seen.begin_ns = seen.end_ns = seen.working_ns(undisturbed_ns)
            write_whole(self._kept, self._recording.read_bytes())
            if self._scenario.expect.asks_for_agreement:
                seen.agreement = self._agreement(sent)
        except PerceptionError as error:
            seen.failure = seen.failure or str(error)
        return seen

    def _note_faults(self) -> None:
        """Note which faults were put in, and why the others were not."""
        seen, faults = self._seen, self._scenario.faults
        for number, fault in enumerate(faults):
            begin_ns, end_ns = self._put_in.get(number, (0, 0))
            why = self._not_put_in.get(number, "")
            if not why and seen.sent and begin_ns > seen.sent[-1]:
                why = "the drive was over before its time"
            elif not why and self._frames_changed.get(number) == 0:
                why = "it changed no frame"
            if why:
                seen.not_put_in.append(f"{fault.kind} (faults.{number}) was not put in: {why}")
            else:
                seen.faults.append((fault.kind, begin_ns, end_ns))

    def _agreement(self, sent: Mapping[int, int]) -> float | None:
        """Compare the detections while a fault lasts; all detections if no fault lasts."""
        begin_ns, end_ns = self._seen.begin_ns, self._seen.end_ns
        found = {
            sent[stamp_ns]: objects
            for stamp_ns, objects in read_recording(self._recording).detections.items()
            if stamp_ns in sent and (begin_ns == end_ns or begin_ns <= stamp_ns < end_ns)
        }
        prepare(self._scenario, self._undisturbed, disturbed=False)
        return agreement_share(detect_undisturbed(self._undisturbed, found, self.parameters), found)


def _over_the_network(spec: NodeSpec) -> NodeSpec:
    """A node of the bench with the DDS profile for a network, even if that is simulated."""
    profile = str(share_folder() / "config" / "fastdds_network.xml")
    return replace(spec, environment={profiles_variable(): profile})
