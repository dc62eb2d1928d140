"""`demo`: plays a drive through the whole graph, with a live view and a report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from perception_nodes.drives.bag import BagError, open_drive
from perception_nodes.graph.config import DetectorSettings
from perception_nodes.graph.graph import RECORDED, Graph
from perception_nodes.graph.resolve import GraphSettings
from perception_nodes.graph.ros_arguments import NO_ROS_ARGUMENTS
from perception_nodes.graph.settings import refuse
from perception_nodes.graph.supervisor import GraphFailure
from perception_nodes.lab.run import Run, check_written, execute
from perception_nodes.networks.model import load_model
from perception_nodes.replay.outputs import finish
from perception_nodes.system.processes import machine

DECIDED = {"model", "backend", "threads", "cpus"}
"""Parameters that a measurement may decide."""
SET_BY_THE_DEMO = frozenset({"bag", "topic", "frames", "listeners", "recording", "sent_file"})


def run_demo(
    bag: Path,
    out: Path,
    topic: str,
    values: dict[str, Any],
    resolved: Callable[[Graph, dict[str, Any]], GraphSettings],
    writing: Callable[[int, int], None],
) -> dict[str, Any]:
    """Play a drive through the graph, whose nodes are processes, and write the outputs.

    Args:
        bag: the drive.
        out: folder for summary.json, detections.mcap, report.html and annotated.mp4.
        topic: image topic; empty to find it by type.
        values: parameters of the graph that differ from their defaults.
        resolved: returns the settings of a graph with parameters; it may measure some.
        writing: called with the frames done and their total while the outputs are written.

    Returns:
        The summary.

    Raises:
        BagError, SettingsError, ModelError: unusable input.
        GraphFailure: a process ended that should not have.
        KeyboardInterrupt: interrupted by the user.
    """
    refuse(values, SET_BY_THE_DEMO)
    recording, sent_file = out / "recording.mcap.tmp", out / "sent.json.tmp"
    log, run = out / "nodes.log", Run()
    with open_drive(bag, topic) as drive:
        played = {
            "bag": str(bag.resolve()),
            "topic": drive.topic,
            "frames": drive.frame_count,
            "listeners": 1,
            "recording": str(recording.resolve()),
            "sent_file": str(sent_file.resolve()),
        }
        settings = resolved(RECORDED, {**values, **played})
        specs, parameters = RECORDED.processes(settings, NO_ROS_ARGUMENTS), settings.parameters
        detector = settings.of(DetectorSettings)
        model = load_model(detector.model, detector.model_key)
        out.mkdir(parents=True, exist_ok=True)
        try:
            # Messages of the nodes on the screen would disturb the live view.
            execute(run, specs, log)
            check_written(sent_file, recording)
            run.read_sent(sent_file)
            if not run.sent:
                raise BagError(f"{bag}: no frame could be read; {'; '.join(run.warnings)}")
            context = {
                "bag": str(bag),
                "topic": drive.topic,
                "path": f"ROS 2 ({parameters['source']})",
                "model": model.name,
                "precision": model.precision,
                "backend": detector.backend,
                "deadline_ms": parameters["deadline_ms"],
                "warnings": run.warnings,
                "machine": machine(),
                "parameters": values | detector.model_dump(include=DECIDED, exclude_defaults=True),
            }
            sent = list(zip(run.numbers, run.sent, strict=True))
            bits = int(parameters["sample_bits"])
            return finish(out, recording, drive, sent, context, writing, bits)
        except GraphFailure as error:
            raise GraphFailure(f"{error} (see {log})") from error
        finally:
            # A recorder that was killed leaves its file under a temporary name.
            for file in (*out.glob("*recording.mcap.tmp*"), sent_file):
                file.unlink(missing_ok=True)
