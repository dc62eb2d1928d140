"""Why the images of a topic do not come, and the remedy."""

import pytest

from perception_nodes.cameras.awaited import ImageTopicFacts, Publisher, channel_trouble, trouble_of
from perception_nodes.drives.schemas import COMPRESSED_IMAGE, COMPRESSED_VIDEO, IMAGE
from perception_nodes.system import environment

TYPES = {"raw": IMAGE, "compressed": COMPRESSED_IMAGE, "foxglove": COMPRESSED_VIDEO}
CAMERA = Publisher("/camera", IMAGE, reliable=False, is_here=True)


def facts(publishers=(CAMERA,), published=None, topic="/cam/image", transport="raw", **values):
    return ImageTopicFacts(topic, transport, TYPES, publishers, published or {}, **values)


def of_type(message_type):
    return [Publisher("/c", message_type, True, True)]


@pytest.mark.parametrize(
    ("found", "problem", "remedy"),
    [
        (facts(()), "nobody publishes on /cam/image", "RANGE=SUBNET if it is on another machine"),
        (
            facts((), {"/cam/image/foxglove": COMPRESSED_VIDEO, "/other": IMAGE}),
            "nobody publishes on /cam/image, but /cam/image/foxglove is published",
            "set image_transport:=foxglove",
        ),
        (
            facts((), {"/cam": IMAGE}, topic="/cam/compressed", transport="compressed"),
            "nobody publishes on /cam/compressed, but /cam is published",
            "set image_transport:=raw",
        ),
        (
            facts((), {f"/{name}": IMAGE for name in "dbca"}),
            "nobody publishes on /cam/image; images are on /a, /b, /c, ...",
            "set image_topic:=/a",
        ),
        (
            facts((), {"/front/compressed": COMPRESSED_IMAGE}),
            "nobody publishes on /cam/image; images of another type are on /front/compressed",
            "",
        ),
        (
            facts(of_type(COMPRESSED_IMAGE)),
            f"/cam/image is of type {COMPRESSED_IMAGE}, {IMAGE} is awaited",
            "set image_topic:=/cam/image image_transport:=compressed "
            "--ros-args -r /cam/image/compressed:=/cam/image",
        ),
        (
            facts(of_type(IMAGE), topic="/image/foxglove", transport="foxglove"),
            f"/image/foxglove is of type {IMAGE}, {COMPRESSED_VIDEO} is awaited",
            "set image_topic:=/image/foxglove image_transport:=raw",
        ),
        (
            facts(of_type("std_msgs/msg/String")),
            f"/cam/image is of type std_msgs/msg/String, {IMAGE} is awaited",
            "name the topic of the images with image_topic:=",
        ),
        (
            facts(mismatched="RELIABILITY"),
            "/cam/image: the RELIABILITY policy that /camera (best effort) offers does not match",
            "ros2 topic info --verbose shows both sides",
        ),
        (facts(), "no frame from the camera: /cam/image has /camera (best effort)", ""),
        (
            facts([Publisher("/c", IMAGE, True, is_here=False)], received=2, lost=8),
            "/cam/image: 8 of 10 frames of /c (reliable) did not arrive whole: the network loses",
            "compressed images help",
        ),
        (
            facts([CAMERA, Publisher("/rear", IMAGE, True, True)], received=30, changes=2),
            "/cam/image: frames of several publishers alternate, of /camera (best effort), /rear",
            "give each camera a topic of its own",
        ),
    ],
)
def test_the_problem_and_the_remedy_are_named(found, problem, remedy):
    trouble = trouble_of(found)
    assert trouble.problem.startswith(problem) and trouble.remedy.endswith(remedy)


@pytest.mark.parametrize(("lost", "changes"), [(0, 0), (2, 0), (0, 1)])
def test_there_is_no_trouble_while_images_come(lost, changes):
    """A single lost frame, or a driver that starts again, is none."""
    found = facts(received=27, lost=lost, changes=changes, mismatched="RELIABILITY")
    assert trouble_of(found) is None


@pytest.mark.parametrize("variable", ["FASTRTPS", "FASTDDS"])
def test_the_setting_that_mends_the_publisher_is_named(variable, tmp_path, monkeypatch):
    library = tmp_path / f"lib/lib{variable.lower()}.so"  # FASTRTPS: up to Jazzy
    library.parent.mkdir()
    library.touch()
    monkeypatch.setattr(environment, "prefixes", lambda: [tmp_path])
    start = f"start the publisher with {variable}_DEFAULT_PROFILES_FILE=/"
    remedy = trouble_of(facts(received=3, lost=77)).remedy
    assert remedy.startswith(f"publish with reliable delivery, or {start}")
    assert remedy.endswith("/config/fastdds.xml")
    assert trouble_of(facts(of_type(IMAGE), lost=5)).remedy.startswith(start)


def test_a_silent_channel_names_what_fills_it():
    assert "`perception camera SOURCE --name rear`" in str(channel_trouble("rear", "shm", 0))
    assert "say what became of cam.mp4" in str(channel_trouble("front", "cam.mp4", 0))
    assert "sends nothing" in str(channel_trouble("rear", "shm", 1))
