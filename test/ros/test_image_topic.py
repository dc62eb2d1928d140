"""The subscription to a camera's images beside publishers as users have them."""

import fcntl
import json
import os
import subprocess
import sys
from itertools import cycle

import pytest
import rclpy
from observe import until
from rclpy.qos import QoSProfile, ReliabilityPolicy
from recorder import Recorder
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from typer.testing import CliRunner

from perception_nodes.cameras.awaited import ImageTopicFacts, trouble_of
from perception_nodes.cli.app import app
from perception_nodes.graph.config import PreprocessSettings
from perception_nodes.graph.settings import SettingsError
from perception_nodes.nodes import image_topic
from perception_nodes.nodes.base import PerceptionNode
from perception_nodes.nodes.image_topic import ImageTopic
from perception_nodes.system.environment import profiles_variable
from perception_nodes.transport.domain import presence_file
from perception_nodes.transport.lock import open_locked

pytestmark = [pytest.mark.ros]
TOPIC = "/cam/image"
RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
STOCK_CAMERA = """
import array, time, rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("camera", namespace="stock")
qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
images = node.create_publisher(Image, "/cam/image", qos)
image = Image(height=1080, width=1920, encoding="bgr8", step=5760)
image.data = array.array("B", bytes(1080 * 5760))
while True:
    images.publish(image)
    time.sleep(1 / 30)
"""


class Reader(PerceptionNode):
    """A node that reads images and looks after their topic."""

    settings_type = PreprocessSettings

    def __init__(self):
        super().__init__("reader")
        self.taken: dict[int, list[int]] = {}
        self.topic = ImageTopic(self, PreprocessSettings(image_topic=TOPIC), self.take)
        self.topic.open()
        self.facts: ImageTopicFacts | None = None

    def take(self, data, source, number, *_):
        assert number is not None
        self.taken.setdefault(source, []).append(number)

    def until(self, condition, each=int):
        def look():
            self.topic.receive(10)
            self.spin(0)
            self.facts = self.topic.look() or self.facts
            each()

        until(condition, why=lambda: self.facts, meanwhile=look)

    def until_said(self, text):
        self.until(lambda: self.facts and text in str(trouble_of(self.facts)))

    def asks_for(self, reliability):
        infos = self.get_subscriptions_info_by_topic(TOPIC)
        return [info.qos_profile.reliability for info in infos] == [reliability]


@pytest.fixture
def reader(domain, monkeypatch):
    monkeypatch.setattr(image_topic, "LOOK_PERIOD_NS", 50_000_000)
    rclpy.init(domain_id=domain)
    node = Reader()
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)
    yield node
    executor.remove_node(node)
    node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def camera(reader, closed):
    return closed(Recorder("camera")).node  # one participant has one type for a topic


def publisher(camera, reliability):
    return camera.create_publisher(Image, TOPIC, QoSProfile(depth=10, reliability=reliability))


def test_the_reliability_that_is_offered_is_asked_for(reader, camera):
    """And frames come through each change, in the order of their numbers."""
    assert reader.asks_for(BEST_EFFORT)
    first = publisher(camera, RELIABLE)

    def send(images):
        return lambda: images.publish(Image(height=1, width=1, encoding="mono8", step=1, data=[0]))

    reader.until(lambda: reader.asks_for(RELIABLE), send(first))
    reader.until(lambda: any(len(numbers) > 3 for numbers in reader.taken.values()), send(first))
    (source,) = reader.taken
    second = publisher(camera, BEST_EFFORT)
    reader.until(lambda: reader.asks_for(BEST_EFFORT), send(first))
    camera.destroy_publisher(first)
    reader.until(lambda: len(reader.taken) == 2, send(second))
    numbers = reader.taken[source]
    assert numbers == sorted(set(numbers))
    reader.until(lambda: reader.facts and reader.facts.received and not reader.facts.lost)
    assert reader.facts is not None and trouble_of(reader.facts) is None


@pytest.mark.parametrize(
    ("override", "is_possible"), [("depth:=5", True), ("reliability:=reliable", False)]
)
def test_a_reliability_of_images_is_refused(override, is_possible, domain):
    name = f"qos_overrides.{TOPIC}.subscription"
    rclpy.init(args=["--ros-args", "-p", f"{name}.{override}"], domain_id=domain)
    try:
        if is_possible:
            assert Reader().topic._subscription.qos_profile.depth == 5
        else:
            with pytest.raises(SettingsError, match=f"{name}.reliability: 'reliable' is not"):
                Reader()
    finally:
        rclpy.shutdown()


def test_it_is_said_what_is_awaited(reader, camera):
    shown = camera.create_publisher(CompressedImage, "/perception/annotated/compressed", 1)
    reader.until(lambda: reader.count_publishers(shown.topic_name))
    reader.facts = None
    reader.until_said(f"nobody publishes on {TOPIC}; start the camera's driver")
    compressed = camera.create_publisher(CompressedImage, f"{TOPIC}/compressed", 1)
    reader.until_said("set image_transport:=compressed")
    camera.destroy_publisher(compressed)
    text = camera.create_publisher(String, TOPIC, 1)
    reader.until_said("std_msgs/msg/String, sensor_msgs/msg/Image is awaited")
    camera.destroy_publisher(text)
    publisher(camera, BEST_EFFORT)
    reader.until_said("/camera (best effort), who sends nothing")


def test_two_cameras_on_one_topic_are_told(reader, camera):
    front, rear = publisher(camera, RELIABLE), publisher(camera, RELIABLE)
    image = Image(height=1, width=1, encoding="mono8", step=1, data=[0])

    turns = cycle((front, rear))
    told = f"{TOPIC}: frames of several publishers alternate, of /camera (reliable), /camera (reli"
    reader.until(
        lambda: reader.facts and told in str(trouble_of(reader.facts)),
        lambda: next(turns).publish(image),
    )
    camera.destroy_publisher(rear)
    reader.until(
        lambda: reader.facts and not trouble_of(reader.facts), lambda: front.publish(image)
    )


def test_the_doctor_tells_what_a_stock_camera_must_set(domain, monkeypatch):
    monkeypatch.delenv(profiles_variable(), raising=False)
    # It keeps out of shared memory, which is another user's where root asks the doctor.
    closed = open_locked(presence_file(domain), fcntl.LOCK_EX)
    process = subprocess.Popen([sys.executable, "-c", STOCK_CAMERA])
    try:
        result = CliRunner().invoke(app, ["doctor", "--image-topic", TOPIC, "--json"])
    finally:
        process.kill()
        process.wait()
        os.close(closed)
    assert result.exit_code == 1
    finding = json.loads(result.stdout)[-1]
    assert (finding["subject"], finding["ok"]) == (TOPIC, False)
    assert "/stock/camera (best effort) did not arrive whole" in finding["found"]
    assert "config/fastdds.xml" in finding["remedy"]


def test_while_it_is_closed_there_is_no_subscription(reader, camera):
    """The middleware would copy each image for a standby."""
    images = publisher(camera, RELIABLE)
    reader.topic.close()
    assert not reader.get_subscriptions_info_by_topic(TOPIC)
    assert reader.topic.look() is None
    reader.topic.open()
    reader.until(lambda: reader.taken, lambda: images.publish(Image()))
