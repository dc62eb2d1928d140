"""Play a recorded drive through the whole graph over ROS 2, with a live view and a report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perception_nodes.drives.bag import BagError, Drive, open_drive
from perception_nodes.graph.graph import RECORDED
from perception_nodes.graph.settings import refuse
from perception_nodes.graph.supervisor import GraphFailure, Supervisor, last_error
from perception_nodes.networks.model import load_model
from perception_nodes.replay.outputs import finish
from perception_nodes.system.processes import machine

SET_BY_THE_DEMO = frozenset({"bag", "topic", "frames", "listeners", "recording", "sent_file"})


def run_demo(
    bag: Path,
    out: Path,
    topic: str,
    values: dict[str, Any],
    writing: Callable[[int, int], None],
) -> dict[str, Any]:
    """Play a drive through the graph, whose nodes are processes, and write the outputs.

    Args:
        bag: the drive.
        out: folder for summary.json, detections.mcap, report.html and annotated.mp4.
        topic: image topic; empty to find it by type.
        values: parameters of the graph that differ from their defaults.
        writing: called with the frames done and their total while the outputs are written.

    Returns:
        The summary.

    Raises:
        BagError, SettingsError, ModelError: unusable input.
        GraphFailure: a process ended that should not have.
    """
    refuse(values, SET_BY_THE_DEMO)
    with open_drive(bag, topic) as drive:
        return _played(drive, bag, out, values, writing)


def _played(
    drive: Drive,
    bag: Path,
    out: Path,
    values: dict[str, Any],
    writing: Callable[[int, int], None],
) -> dict[str, Any]:
    recording, sent_file = out / "recording.mcap.tmp", out / "sent.json.tmp"
    log_path = out / "nodes.log"
    specs = RECORDED.nodes(
        {
            **values,
            "bag": str(bag.resolve()),
            "topic": drive.topic,
            "frames": drive.frame_count,
            "listeners": 1,
            "recording": str(recording.resolve()),
            "sent_file": str(sent_file.resolve()),
        }
    )
    parameters = {name: value for spec in specs for name, value in spec.parameters.items()}
    model = load_model(parameters["model"], parameters["model_key"])
    out.mkdir(parents=True, exist_ok=True)
    try:
        # Messages of the nodes on the screen would disturb the live view.
        with log_path.open("wb") as log, Supervisor(specs, log=log) as graph:
            completed = graph.wait()
        if not sent_file.is_file():
            raise GraphFailure(
                "interrupted" if not completed else "the player ended without a list of its frames"
            )
        played = json.loads(sent_file.read_text(encoding="utf-8"))
        if not played["sent"]:
            raise BagError(f"{bag}: no frame could be read; {'; '.join(played['warnings'])}")
        context = {
            "bag": str(bag),
            "topic": drive.topic,
            "path": f"ROS 2 ({parameters['source']})",
            "model": model.name,
            "precision": model.precision,
            "backend": parameters["backend"],
            "deadline_ms": parameters["deadline_ms"],
            "frames_sent": len(played["sent"]),
            "warnings": played["warnings"],
            "machine": machine(),
        }
        sent = [(index, stamp_ns) for index, stamp_ns in played["sent"]]
        bits = int(parameters["sample_bits"])
        return finish(out, recording, drive, sent, context, writing, bits)
    except GraphFailure as error:
        raise GraphFailure(f"{error}: {last_error(log_path)} (see {log_path})") from error
    finally:
        recording.unlink(missing_ok=True)
        sent_file.unlink(missing_ok=True)
