"""What is said of a topic whose images do not come."""

import pytest

from perception_nodes.cameras.awaited import ImageTopicFacts, Publisher, channel_trouble, trouble_of
from perception_nodes.drives.schemas import COMPRESSED_IMAGE, COMPRESSED_VIDEO, IMAGE
from perception_nodes.system import environment

CAMERA = Publisher("/camera", IMAGE, reliable=False, is_here=True)


TYPES = {"raw": IMAGE, "compressed": COMPRESSED_IMAGE, "foxglove": COMPRESSED_VIDEO}


def facts(publishers=(CAMERA,), published=None, topic="/cam/image", transport="raw", **values):
    return ImageTopicFacts(topic, transport, TYPES, publishers, published or {}, **values)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            facts(()),
            "nobody publishes on /cam/image; start the camera's driver in the same ROS_DOMAIN_ID, "
            "name its topic with image_topic:=, or export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET if "
            "it is on another machine",
        ),
        (
            facts((), {"/cam/image/compressed": COMPRESSED_IMAGE, "/other": IMAGE}),
            "nobody publishes on /cam/image, but /cam/image/compressed is published; "
            "set image_transport:=compressed",
        ),
        (
            facts((), {"/cam/image": IMAGE}, topic="/cam/image/compressed", transport="compressed"),
            "nobody publishes on /cam/image/compressed, but /cam/image is published; "
            "set image_transport:=raw",
        ),
        (
            facts((), {f"/{name}": IMAGE for name in "dbca"}),
            "nobody publishes on /cam/image; images are on /a, /b, /c, ...; set image_topic:=/a",
        ),
        (
            facts(
                (),
                {"/front/compressed": COMPRESSED_IMAGE},
                transport="compressed",
                topic="/cam/image/compressed",
            ),
            "nobody publishes on /cam/image/compressed; images are on /front; "
            "set image_topic:=/front",
        ),
        (
            facts((), {"/front/compressed": COMPRESSED_IMAGE}),
            "nobody publishes on /cam/image; images of another type are on /front/compressed",
        ),
        (
            facts([Publisher("/c", COMPRESSED_IMAGE, True, True)]),
            "/cam/image is of type sensor_msgs/msg/CompressedImage, sensor_msgs/msg/Image is "
            "awaited; set image_topic:=/cam/image image_transport:=compressed --ros-args "
            "-r /cam/image/compressed:=/cam/image",
        ),
        (
            facts([Publisher("/c", COMPRESSED_IMAGE, True, True)], topic="/cam/image/compressed"),
            "/cam/image/compressed is of type sensor_msgs/msg/CompressedImage, "
            "sensor_msgs/msg/Image is awaited; set image_topic:=/cam/image "
            "image_transport:=compressed",
        ),
        (
            facts((), {"/cam/image/foxglove": COMPRESSED_VIDEO}),
            "nobody publishes on /cam/image, but /cam/image/foxglove is published; "
            "set image_transport:=foxglove",
        ),
        (
            facts(
                [Publisher("/c", IMAGE, True, True)], topic="/image/foxglove", transport="foxglove"
            ),
            "/image/foxglove is of type sensor_msgs/msg/Image, "
            "foxglove_msgs/msg/CompressedVideo is awaited; "
            "set image_topic:=/image/foxglove image_transport:=raw",
        ),
        (
            facts([Publisher("/c", "std_msgs/msg/String", True, True)]),
            "/cam/image is of type std_msgs/msg/String, sensor_msgs/msg/Image is awaited; "
            "name the topic of the images with image_topic:=",
        ),
        (
            facts(mismatched="RELIABILITY"),
            "/cam/image: the RELIABILITY policy that /camera (best effort) offers does not match; "
            "ros2 topic info --verbose shows both sides",
        ),
        (
            facts(),
            "no frame from the camera: /cam/image has /camera (best effort), who sends nothing",
        ),
        (
            facts([Publisher("/c", IMAGE, True, is_here=False)], received=2, lost=8),
            "/cam/image: 8 of 10 frames of /c (reliable) did not arrive whole: the network loses "
            "them; compressed images help",
        ),
    ],
)
def test_the_problem_and_the_remedy_are_said(found, said):
    assert str(trouble_of(found)) == said


@pytest.mark.parametrize(("received", "lost"), [(30, 0), (27, 2), (1, 0)])
def test_there_is_no_trouble_while_images_come(received, lost):
    assert trouble_of(facts(received=received, lost=lost, mismatched="RELIABILITY")) is None


def test_two_cameras_on_one_topic_are_told_and_a_driver_that_starts_again_is_not():
    cameras = [CAMERA, Publisher("/rear", IMAGE, True, True), Publisher("/x", "Text", True, True)]
    assert trouble_of(facts(cameras, received=30, changes=1)) is None
    assert str(trouble_of(facts(cameras, received=30, lost=30, changes=2))) == (
        "/cam/image: frames of several publishers alternate, of /camera (best effort), "
        "/rear (reliable); give each camera a topic of its own"
    )


@pytest.mark.parametrize("variable", ["FASTRTPS", "FASTDDS"])
def test_the_line_that_mends_the_publisher_is_said(variable, tmp_path, monkeypatch):
    library = tmp_path / f"lib/lib{variable.lower()}.so"  # FASTRTPS: up to Jazzy
    library.parent.mkdir()
    library.touch()
    monkeypatch.setattr(environment, "prefixes", lambda: [tmp_path])
    monkeypatch.setenv(f"{variable}_DEFAULT_PROFILES_FILE", "a file of the user")
    found = trouble_of(facts(received=3, lost=77))
    assert found.problem.startswith("/cam/image: 77 of 80 frames of /camera (best effort) did not")
    remedy, _, file = found.remedy.rpartition("=")
    expected = "publish with reliable delivery, or start the publisher with "
    assert remedy == f"{expected}{variable}_DEFAULT_PROFILES_FILE"
    assert file.endswith("/config/fastdds.xml")
    reliable = [Publisher("/camera", IMAGE, reliable=True, is_here=True)]
    assert trouble_of(facts(reliable, lost=5)).remedy.startswith("start the publisher with ")


def test_a_silent_channel_names_what_fills_it():
    assert "`perception camera SOURCE --name rear`" in str(channel_trouble("rear", "shm", 0))
    # A film that has ended well is told of like this, too.
    assert "say what became of cam.mp4" in str(channel_trouble("front", "cam.mp4", 0))
    assert "sends nothing" in str(channel_trouble("rear", "shm", 1))
