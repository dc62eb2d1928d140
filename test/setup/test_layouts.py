"""The layouts for other viewers name topics and fields that exist."""

import json
import re
from xml.etree import ElementTree

import pytest

from perception_nodes.core.budget import DEADLINE_MS, STAGES
from perception_nodes.drives.schemas import FRAME_REPORT, HEALTH, schema_text
from perception_nodes.replay.outputs import ANNOTATIONS_TOPIC, IMAGE_TOPIC
from perception_nodes.report.recording import FRAME_REPORT_TOPIC, HEALTH_TOPIC

MESSAGES = {FRAME_REPORT_TOPIC: FRAME_REPORT, HEALTH_TOPIC: HEALTH}


def is_field(topic, name):
    """Whether messages of a topic have a field; in brackets is an element of an array."""
    if topic not in MESSAGES:
        return (topic, name) == ("/perception/safe_stop", "data")
    field = re.escape(name.partition("[")[0])
    array = rf"\[{len(STAGES)}\]" if "[" in name else r"(\[\])?"
    found = re.search(rf"^[\w/]+{array} {field}$", schema_text(MESSAGES[topic]), re.MULTILINE)
    return found is not None


@pytest.mark.parametrize(
    ("file", "image"),
    [("foxglove_layout.json", "/camera/image_raw"), ("foxglove_recorded.json", IMAGE_TOPIC)],
)
def test_foxglove_draws_fields_that_exist_and_a_deadline(root, file, image):
    layout = json.loads((root / "config" / file).read_text())
    panels = layout["configById"]
    camera = panels["Image!camera"]["imageMode"]
    assert camera["imageTopic"] == image and ANNOTATIONS_TOPIC in camera["annotations"]
    values = [one["value"] for panel in panels.values() for one in panel.get("paths", ())]
    assert f"{DEADLINE_MS:g}" in values
    paths = [value.partition(".") for value in values if value.startswith("/")]
    assert all(is_field(topic, name) for topic, _, name in paths)
    assert {"latency_ms", *(f"stage_ms[{i}]" for i in range(len(STAGES)))} <= {p[2] for p in paths}
    assert set(re.findall(r'"(\w+!\w+)"', json.dumps(layout["layout"]))) == set(panels)


def test_plotjuggler_draws_fields_that_exist_and_a_deadline(root):
    layout = ElementTree.parse(root / "config/plotjuggler.xml")
    names = {curve.attrib["name"] for curve in layout.iter("curve")}
    (snippet,) = layout.iter("snippet")
    assert snippet.findtext("function") == f"return {DEADLINE_MS:g}"
    names = names - {snippet.attrib["name"]} | {str(snippet.findtext("linked_source"))}
    assert all(is_field(*name.rsplit("/", 1)) for name in names) and len(names) == 7
