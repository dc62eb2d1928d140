"""`perception topics` and `echo`, and the README's subscriber, beside a node that publishes."""

import json
import re
import subprocess
import sys

import pytest
from perception_interfaces.msg import Health
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from perception_nodes.core.errors import PerceptionError
from perception_nodes.nodes import listening
from perception_nodes.nodes.base import LATCHED
from perception_nodes.replay.background import repeated

pytestmark = pytest.mark.ros


@pytest.fixture
def published(recorder):
    """A car at 20, 30 again and again, and health once, for who joins late."""
    node = recorder.node
    car = Detection2D(results=[ObjectHypothesisWithPose()])
    car.results[0].hypothesis.class_id, car.results[0].hypothesis.score = "car", 0.5
    car.bbox.center.position.x, car.bbox.center.position.y = 20.0, 30.0
    cars = node.create_publisher(Detection2DArray, "/perception/detections", 10)
    node.create_publisher(Health, "/perception/health", LATCHED).publish(Health(mode=3, ok=2**40))
    with repeated(lambda: cars.publish(Detection2DArray(detections=[car])), 0.05):
        yield


def echoed(*arguments):
    command = [sys.executable, "-m", "perception_nodes", "echo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.usefixtures("published")
def test_topics_are_listed_and_echoed():
    found = []
    while not found:  # on a busy machine discovery takes longer
        found = [one for one in listening.topics() if one.name == "/perception/health"]
    assert found[0][1:3] == ("perception_interfaces/msg/Health", 1)
    health = json.loads(echoed("perception/health", "--count", "1", "--json"))
    assert (health["mode"], health["ok"], health["faults"]) == (3, 2**40, [])
    text = echoed("--count", "2")
    assert text.count("class_id: car") == text.count("---\n") == 2
    with pytest.raises(PerceptionError, match="did you mean /perception/health"):
        listening.echo("/perception/heath", 1, print)


@pytest.mark.usefixtures("published")
def test_the_subscriber_of_the_readme_hears_detections(root):
    code = re.findall(r"^```python\n(.*?)^```", (root / "README.md").read_text(), re.S | re.M)[0]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as heard:
        assert heard.stdout is not None
        line = heard.stdout.readline()
        heard.kill()
    assert line == "car 0.50 at 20, 30\n"
