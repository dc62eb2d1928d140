"""`hil run`: plays the drive of a scenario, puts its faults in, records the outputs, judges them.

The bench is this process with the camera and the monitor. The unit is the graph of the vehicle, on
this machine or behind a `RemoteUnit`.
"""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from perception_nodes.core.errors import PerceptionError
from perception_nodes.faults.clock_offset import ClockOffset, measure_offset
from perception_nodes.faults.drive import needs_preparation, prepare
from perception_nodes.faults.graphs import BENCH, HIL
from perception_nodes.faults.inject import NotInjected, UnderTest, put_in, with_faulty_backend
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
from perception_nodes.graph.supervisor import GraphFailure, Supervisor
from perception_nodes.lab.judge import ScenarioVerdict, judge
from perception_nodes.lab.run import Beside, Run, execute
from perception_nodes.lab.undisturbed import agreement_share, detect_undisturbed
from perception_nodes.report.recording import read_recording
from perception_nodes.system.environment import profiles_variable, share_folder
from perception_nodes.system.files import write_whole

POLL_S = 0.01
FAILURE_POLL_S = 0.5
REPAIR_S = 4.0
"""Time for repairs: a reliable reader asks for a lost sample up to 3 s later, at a heartbeat."""


def run_here(
    scenario: Scenario, out: Path, unit: RemoteUnit | None = None, link: LossyLink | None = None
) -> ScenarioVerdict:
    """Run a scenario from this process.

    Args:
        scenario: what to run.
        out: folder for a recording and the nodes' messages.
        unit: where the graph runs; None if it runs beside the camera.
        link: the network to the unit, if it is a simulated one.

    Raises:
        BagError, SettingsError, ModelError: unusable parameters.
        UnitError: the unit cannot be used.
        KeyboardInterrupt: interrupted by the user.
    """
    out.mkdir(parents=True, exist_ok=True)
    with scratch_folder() as folder:
        played = ScenarioRun(scenario, Path(folder), out, unit, link)
        clock = played.play()
        agreement = played.gather()
        return judge(scenario, played.run, played.parameters["deadline_ms"], clock, agreement)


class ScenarioRun:
    """One run of a scenario, and its files.

    Attributes:
        run: what was observed.
        parameters: of the graph.
        put_in: begin and end of each fault that was put in, by its number in the scenario.
        not_put_in: why the other faults were not put in.
        frames_changed: how many frames each fault of the camera or the picture has changed.
    """

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        out: Path,
        unit: RemoteUnit | None = None,
        link: LossyLink | None = None,
    ) -> None:
        """Prepare the drive and the graph."""
        self._scenario, self._folder, self._unit, self._link = scenario, folder, unit, link
        self._orders, self._started = folder / "orders.json", folder / "started"
        # A recording goes to the results when it is complete.
        self._recording, self._kept = folder / "recording.mcap", out / f"{scenario.name}.mcap"
        self._log = out / f"{scenario.name}.log"
        self.run = Run()
        self.put_in: dict[int, tuple[int, int]] = {}
        self.not_put_in: dict[int, str] = {}
        self.frames_changed: dict[int, int] = {}
        self._specs = self._prepared_specs()
        self.parameters = {k: v for spec in self._specs for k, v in spec.parameters.items()}

    def play(self) -> ClockOffset | None:
        """Run the scenario; returns the unit's clock, if the unit is a remote one."""
        specs, clock = self._specs, None
        faults = self._scenario.faults
        beside: list[Beside] = [partial(self.inject, *numbered) for numbered in enumerate(faults)]
        if self._unit is not None:
            executables = {kind.executable for kind in BENCH.kinds}
            # The DDS profile for a network, even if that is simulated.
            profile = {profiles_variable(): str(share_folder() / "config/fastdds_network.xml")}
            ours = (spec for spec in specs if spec.executable in executables)
            specs = [replace(spec, environment=profile) for spec in ours]
            self._unit.start(self._scenario, self._unit_values())
            clock = measure_offset(self._unit.clock)
            beside.append(partial(self._look_after, self._unit))
        try:
            execute(self.run, specs, self._log, beside)
        except GraphFailure as error:
            self.run.failure = self.run.failure or str(error)
        return clock

    def _prepared_specs(self) -> list[NodeSpec]:
        scenario, faults = self._scenario, self._scenario.faults
        drive, values = scenario.drive, dict(scenario.graph)
        if needs_preparation(scenario):
            played = self._folder / "played.mcap"
            self.frames_changed = prepare(scenario, played, disturbed=True)
            drive = str(played)
            values.pop("topic", None)  # this topic is that of the recorded drive
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
                "sent_file": str(self._folder / "sent.json"),
                "started_file": str(self._started),
                "played_file": str(self._folder / "played.json"),
            }
        )
        return with_faulty_backend(specs, faults, self._orders)

    def _unit_values(self) -> dict[str, Any]:
        """Parameters of the graph on the unit: the scenario's, and one that the drive decides."""
        own = {name: v for name, v in self._scenario.graph.items() if name in LIVE.parameters}
        return {**own, "image_transport": self.parameters["image_transport"]}

    def _look_after(self, unit: RemoteUnit, graph: Supervisor, over: threading.Event) -> bool:
        """End the run if the graph on the unit has ended; stop that graph when the run is over."""
        failure = ""
        while not failure and not over.wait(FAILURE_POLL_S):
            try:
                failure = unit.failure()
            except UnitError as error:
                failure = str(error)
        if any(isinstance(fault, NetworkFault) for fault in self._scenario.faults):
            time.sleep(REPAIR_S)
        # Stop the graph before the monitor, which listens until the graph is silent.
        try:
            failed, log = unit.failure(), unit.stop()
        except UnitError as error:
            failed, log = str(error), f"{error}\n"
        self.run.failure = self.run.failure or failure or failed
        self._log.with_suffix(".unit.log").write_text(log, encoding="utf-8")
        return bool(failure)

    def inject(self, number: int, fault: Fault, graph: Supervisor, over: threading.Event) -> None:
        """Wait for the first frame, then for the time of a fault, and put it in.

        Args:
            number: of the fault in the scenario.
            fault: what to do.
            graph: that is run here.
            over: set when the run is over.
        """
        self.not_put_in[number] = "the run was over before its time"
        while not self._started.is_file():
            if over.wait(POLL_S):
                return
        begin_ns = int(self._started.read_text(encoding="utf-8")) + round(fault.after_s * 1e9)
        if over.wait(max(0.0, (begin_ns - time.time_ns()) / 1e9)):
            return
        try:
            if isinstance(fault, CameraFault | PictureFault):
                over.wait(fault.for_s)  # the camera itself does it
            else:
                begin_ns = time.time_ns()
                self._put(fault, graph, over)
        except Exception as error:  # after any error the scenario did not happen as written
            known = isinstance(error, PerceptionError)
            self.not_put_in[number] = str(error) if known else f"{type(error).__name__}: {error}"
            return
        end_ns = begin_ns + round(fault.for_s * 1e9)
        if isinstance(fault, SubscriberFault):
            end_ns = time.time_ns()  # its time began when it listened
        self.put_in[number] = begin_ns, end_ns
        del self.not_put_in[number]

    def _put(self, fault: Fault, graph: Supervisor, over: threading.Event) -> None:
        """Put a fault in from outside, and return when it is over."""
        if isinstance(fault, NetworkFault):
            if self._link is None:
                raise NotInjected("the network between bench and unit is a real one")
            with self._link.under(fault):
                over.wait(fault.for_s)
        elif self._unit is not None:
            self._unit.put_in(fault)
        else:
            put_in(fault, UnderTest(graph, str(self.parameters["camera"]), self._orders), over.wait)

    def gather(self) -> float | None:
        """Read what was sent and recorded.

        Returns:
            The agreement with the undisturbed drive, if the scenario asks for it and it is known.
        """
        run, scenario, sent = self.run, self._scenario, self._folder / "sent.json"
        if self._started.is_file():
            run.first_ns = int(self._started.read_text(encoding="utf-8"))
        if sent.is_file():
            run.read_sent(sent)
            content = json.loads((self._folder / "played.json").read_text(encoding="utf-8"))
            stamps, end = run.sent or [], len(run.sent or []) - content["closing"]
            run.sent, run.closing = stamps[:end], stamps[end:]
            run.late = [(stamp_ns, late_ns) for stamp_ns, late_ns in content["late"]]
            of_camera = [n for n, f in enumerate(scenario.faults) if isinstance(f, CameraFault)]
            self.frames_changed.update(zip(of_camera, content["hits"], strict=True))
        elif not run.failure:
            run.failure = "the camera ended without a list of its frames"
        self._note_faults()
        undisturbed_ns = run.first_ns + round(UNDISTURBED_S * 1e9)
        run.begin_ns = min((begin_ns for _, begin_ns, _ in run.faults), default=undisturbed_ns)
        run.end_ns = max((end_ns for _, _, end_ns in run.faults), default=undisturbed_ns)
        try:
            run.read(self._recording)
            if not scenario.faults:
                run.begin_ns = run.end_ns = run.working_ns(undisturbed_ns)
            write_whole(self._kept, self._recording.read_bytes())
            if scenario.expect.asks_for_agreement:
                return self._agreement(dict(zip(run.sent or [], run.numbers, strict=False)))
        except PerceptionError as error:
            run.failure = run.failure or str(error)
        return None

    def _note_faults(self) -> None:
        """Note which faults were put in, and why the others were not."""
        for number, fault in enumerate(self._scenario.faults):
            begin_ns, end_ns = self.put_in.get(number, (0, 0))
            why = self.not_put_in.get(number, "")
            if not why and self.run.sent and begin_ns > self.run.sent[-1]:
                why = "the drive was over before its time"
            elif not why and self.frames_changed.get(number) == 0:
                why = "it changed no frame"
            if why:
                self.run.not_put_in.append(f"{fault.kind} (faults.{number}) was not put in: {why}")
            else:
                self.run.faults.append((fault.kind, begin_ns, end_ns))

    def _agreement(self, numbers: Mapping[int, int]) -> float | None:
        """Compare the detections while a fault lasts; all detections if no fault lasts."""
        begin_ns, end_ns = self.run.begin_ns, self.run.end_ns
        found = {
            numbers[stamp_ns]: objects
            for stamp_ns, objects in read_recording(self._recording).detections.items()
            if stamp_ns in numbers and (begin_ns == end_ns or begin_ns <= stamp_ns < end_ns)
        }
        drive = self._folder / "undisturbed.mcap"
        prepare(self._scenario, drive, disturbed=False)
        return agreement_share(detect_undisturbed(drive, found, self.parameters), found)
