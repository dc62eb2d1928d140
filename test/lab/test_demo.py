"""What the demo starts."""

import pytest

from perception_nodes.graph.config import DetectorSettings
from perception_nodes.graph.supervisor import GraphFailure
from perception_nodes.lab import demo


def test_the_detector_alone_has_the_processors_that_were_measured(root, tmp_path, monkeypatch):
    def measured(graph, values):
        settings = graph.settings(values | {"standby": "never"})
        placed = settings.of(DetectorSettings).model_copy(update={"cpus": "0"})
        settings.nodes["detector_node"] = placed
        return settings

    started = {}

    def execute(run, specs, log):
        started.update({spec.name: spec.parameters.get("cpus", "") for spec in specs})
        raise GraphFailure("over")

    monkeypatch.setattr(demo, "execute", execute)
    drive = root / "bags/sample_sqlite3"
    with pytest.raises(GraphFailure, match=r"over \(see .*nodes.log\)"):
        demo.run_demo(drive, tmp_path, "", {"backend": "null"}, measured, print)
    assert {name for name, cpus in started.items() if cpus == "0"} == {"detector_node"}
