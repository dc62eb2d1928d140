"""The acceptance of a computer: a drive, the failovers, and the files of the verdict."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from math import isfinite
from pathlib import Path
from typing import Any

from perception_nodes.core.statistics import summarize
from perception_nodes.evaluation.measured import measured
from perception_nodes.faults.loading import load_scenario
from perception_nodes.faults.scratch import scratch_folder
from perception_nodes.graph.config import PreprocessSettings
from perception_nodes.graph.graph import ALL, LIVE, MONITOR, VEHICLE, Graph, graph_of
from perception_nodes.graph.ros_arguments import RosArguments
from perception_nodes.graph.settings import SettingsError, refuse
from perception_nodes.lab.budgets import SETTLING_S, START_S
from perception_nodes.lab.drive_checks import drive_checks, failover_check, latencies_ms, settled
from perception_nodes.lab.hil import run_scenarios
from perception_nodes.lab.host import HostWatch
from perception_nodes.lab.judge import ScenarioVerdict
from perception_nodes.lab.page import acceptance_page
from perception_nodes.lab.resources import Sampler
from perception_nodes.lab.run import Beside, Run, execute
from perception_nodes.networks.model import load_model
from perception_nodes.system.environment import package_version
from perception_nodes.system.files import staged, write_whole
from perception_nodes.system.processes import machine

FAILOVERS = ("detector_kill", "preprocess_kill", "watchdog_kill", "camera_stop")
NAMES_A_CAMERA = {"bag", "source", "image_topic"}
NO_CAMERA = {"bag": "synthetic:1920x1080@30*100000000", "source": "shm"}
"""The drive that is played if no camera is named; it is stopped when the time is up."""
OF_THE_CAMERA = {*NAMES_A_CAMERA, "camera", "image_transport", "calibration_file", "use_sim_time"}
"""Parameters for which a failover's camera has values of its own."""
VERDICT_FILE = "verdict.json"
BUSY_FROM = 0.5
"""Processors that other work keeps; with more it may be the cause of what is missed."""
SET_BY_US = frozenset({"recording", "live", "frames", "autostart"})


@dataclass
class Acceptance:
    """One acceptance; see `perception accept --help`.

    Attributes:
        values: parameters of the graph.
        ros: ROS arguments for its nodes.
        minutes: how long to drive.
        say: receives lines about ignored arguments, and about measurements before the drive.
    """

    values: Mapping[str, Any]
    ros: RosArguments
    minutes: float
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        """Check the parameters, before anything runs.

        Raises:
            SettingsError, ModelError, ScenarioError: one cannot be used.
        """
        refuse(self.values, SET_BY_US)
        self._busy_processors = os.getloadavg()[0]
        if {**self.ros.parameters, **self.values}.get("cameras"):
            raise SettingsError("parameter cameras: one is accepted at a time; give camera:=NAME")
        graph, values = self._graph(Path("drive.mcap"))
        settings = graph.settings(values, self.ros)
        for line in ALL.misnamed(settings, self.ros):
            self.say(line)
        choice = measured(settings, self.say)
        found = choice.parameters if choice else {}
        self.values, self.parameters = {**self.values, **found}, settings.parameters | found
        self._model = load_model(self.parameters["model"], self.parameters["model_key"])
        self._scenarios = [load_scenario(name, self._as_driven()) for name in FAILOVERS]

    def run(self, out: Path, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
        """Drive, fail over, judge, and write the results.

        Args:
            out: folder of the results; they appear when all of them are complete.
            progress: called with the name of the work, its steps done and their total.

        Returns:
            The verdict, as `verdict.json` has it.

        Raises:
            GraphFailure: a process could not start, or ended that should not have.
            SettingsError: the folder cannot be written to.
            KeyboardInterrupt: interrupted by the user; nothing is left.
        """
        with scratch_folder() as scratch:
            folder = Path(scratch) / "results"
            folder.mkdir()
            recording = folder / "drive.mcap"
            run, host = Run(), HostWatch()
            until_s = 60 * self.minutes + START_S + SETTLING_S

            def show(elapsed_s: float) -> None:
                progress("driving, seconds", int(min(elapsed_s, until_s)), int(until_s))

            beside: list[Beside] = [host, Sampler(run.samples, show, until_s)]
            graph, values = self._graph(recording)
            execute(run, graph.nodes(values, self.ros), folder / "nodes.log", beside)
            run.read(recording)

            def begin(place: int, _: object) -> None:
                progress("failing over", place, len(self._scenarios))

            results = run_scenarios(self._scenarios, folder / "failover", None, "", begin)
            if results.interrupted:
                raise KeyboardInterrupt
            verdict = self._verdict(run, host, results.verdicts)
            write_whole(folder / "report.html", acceptance_page(verdict, settled(run).reports))
            write_whole(folder / VERDICT_FILE, json.dumps(verdict, indent=2) + "\n")
            _deliver(folder, out)
        return verdict

    def _graph(self, recording: Path) -> tuple[Graph, dict[str, Any]]:
        """The graph of the drive, and its parameters."""
        values = {**self.values, "recording": str(recording), "live": False}
        if not self._names_a_camera():
            values |= NO_CAMERA
        return Graph((MONITOR, *graph_of({**self.ros.parameters, **values}).kinds)), values

    def _names_a_camera(self) -> bool:
        """Whether one is given as a parameter of the graph, or of a node in a parameter file."""
        if NAMES_A_CAMERA & {*self.values, *self.ros.parameters}:
            return True
        taken = VEHICLE.settings(self.values, self.ros).of(PreprocessSettings)
        default = PreprocessSettings()
        return (taken.source, taken.image_topic) != (default.source, default.image_topic)

    def _as_driven(self) -> dict[str, Any]:
        """The parameters to repeat in the graph that is tested for failover."""
        return {
            name: self.parameters[name]
            for name, field in LIVE.parameters.items()
            if name not in OF_THE_CAMERA
            and (name in ("backend", "standby") or self.parameters[name] != field.default)
        }

    def _verdict(
        self, run: Run, host: HostWatch, told: Iterable[ScenarioVerdict]
    ) -> dict[str, Any]:
        parameters, tracks = self.parameters, bool(self.parameters.get("tracks"))
        seconds, deadline_ms = 60 * self.minutes, parameters["deadline_ms"]
        checks = drive_checks(run, seconds, deadline_ms, tracks, host.had_a_processor)
        checks += [failover_check(verdict) for verdict in told]
        frames = settled(run).reports
        own = {"recording", "live", "frames"}
        return {
            "fit": all(check.passed for check in checks),
            "checks": [asdict(check) for check in checks],
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "version": package_version(),
            "machine": machine(),
            "busy": busy_sentence(self._busy_processors),
            "model": {fact: getattr(self._model, fact) for fact in ("name", "sha256", "license")},
            "minutes": self.minutes,
            "deadline_ms": deadline_ms,
            "changed_parameters": {
                name: parameters[name]
                for name, field in sorted(LIVE.parameters.items())
                if name not in own and parameters.get(name, field.default) != field.default
            },
            "parameters": {name: v for name, v in sorted(parameters.items()) if name not in own},
            "frames": summarize(frames),
            "latencies_ms": [round(took, 3) for took in latencies_ms(frames) if isfinite(took)],
        }


def busy_sentence(processors: float) -> str:
    """What to say of a machine on which so many processors were busy before; empty if few."""
    if processors < BUSY_FROM:
        return ""
    used = f"{processors:.1f} of {os.cpu_count()} processors in the minute before"
    return f"The machine was busy: other work kept {used}. Nothing else should run."


def _deliver(results: Path, out: Path) -> None:
    """Move results to their folder, all or nothing.

    Raises:
        SettingsError: the folder cannot be written to.
    """
    try:
        with staged(out, last=VERDICT_FILE) as folder:
            shutil.copytree(results, folder, dirs_exist_ok=True)
            # An earlier verdict must never lie beside the recording of another run.
            (out / VERDICT_FILE).unlink(missing_ok=True)
    except OSError as error:
        # shutil lists each file that could not be copied, with its reason.
        reason = error.args[0][0][-1] if isinstance(error, shutil.Error) else error.strerror
        why = f"results cannot be written to {out}: {reason}"
        raise SettingsError(f"{why}; name another folder with --out, or make room") from error
