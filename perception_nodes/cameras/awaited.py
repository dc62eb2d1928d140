"""Finds what keeps a camera's images from coming, and the remedy."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perception_nodes.cameras.credentials import redacted
from perception_nodes.system.environment import profiles_variable, share_folder

LOST_SHARE = 0.1
"""A larger share of lost messages is a trouble; single ones are lost while other nodes start."""
NAMED = 3
"""At most so many topics are named as possible ones."""


@dataclass(frozen=True)
class Publisher:
    """A publisher of the topic that we read.

    Attributes:
        node: full name of the node; empty while it is not known yet.
        message_type: such as `sensor_msgs/msg/Image`.
        reliable: whether it offers reliable delivery.
        is_here: whether it runs on this machine.
    """

    node: str
    message_type: str
    reliable: bool
    is_here: bool

    def __str__(self) -> str:
        """Node and reliability as text."""
        return f"{self.node or 'its publisher'} ({'reliable' if self.reliable else 'best effort'})"


@dataclass(frozen=True)
class ImageTopicFacts:
    """What is known of a topic.

    Attributes:
        topic: its full name.
        transport: the image_transport that we read.
        types: the message types of all transports.
        publishers: of this topic, with any type.
        published: all image topics of this domain that somebody publishes, with their types.
        received, lost: messages in the last period, and those that did not arrive whole.
        mismatched: quality-of-service policy that a publisher does not offer; empty if none.
        changes: how often in the last period the publisher changed between two messages; once if a
            driver was started again.
    """

    topic: str
    transport: str
    types: Mapping[str, str]
    publishers: Sequence[Publisher]
    published: Mapping[str, str]
    received: int = 0
    lost: int = 0
    mismatched: str = ""
    changes: int = 0

    @property
    def wanted(self) -> str:
        """The message type that we read."""
        return self.types[self.transport]


@dataclass(frozen=True)
class Trouble:
    """Why images do not come, or not all of them, and what to do."""

    problem: str
    remedy: str = ""

    def __str__(self) -> str:
        """Cause and remedy in one line."""
        return "; ".join(filter(None, (self.problem, self.remedy)))


def trouble_of(facts: ImageTopicFacts) -> Trouble | None:
    """What is wrong with the images of a topic; None if they come."""
    fitting = [p for p in facts.publishers if p.message_type == facts.wanted]
    if facts.changes > 1:
        problem = f"{facts.topic}: frames of several publishers alternate, of {_names(fitting)}"
        return Trouble(problem, "give each camera a topic of its own")
    if facts.received + facts.lost:
        return _lost(facts, fitting) if facts.lost > LOST_SHARE * facts.received else None
    if not facts.publishers:
        return _unpublished(facts)
    if not fitting:
        return _other_type(facts)
    if facts.mismatched:
        return Trouble(
            f"{facts.topic}: the {facts.mismatched} policy that {fitting[0]} offers does not match",
            "ros2 topic info --verbose shows both sides",
        )
    return Trouble(f"no frame from the camera: {facts.topic} has {fitting[0]}, who sends nothing")


def channel_trouble(camera: str, source: str, senders: int, notice: str = "") -> Trouble:
    """Why no frame comes through a camera's shared-memory channel.

    Args:
        camera: its name.
        source: parameter of that name.
        senders: how many processes can send into the channel.
        notice: why none sends a frame, as it says itself.
    """
    if notice and senders:
        return Trouble(f"no frame from the camera {camera!r}: {notice}")
    if senders:
        return Trouble(f"no frame from the camera: {camera!r} is connected, but sends nothing")
    problem = f"shared memory: no process sends frames of the camera {camera!r}"
    if source != "shm":
        return Trouble(problem, f"messages of camera_node say what became of {redacted(source)}")
    command = f"perception camera SOURCE --name {camera}"
    return Trouble(problem, f"start `{command}` in the same ROS domain")


def slow_transport(way_ms: float, deadline_ms: float) -> Trouble:
    """What is wrong if frames take so long to come that most miss their deadline.

    Args:
        way_ms: from their capture until they are here.
        deadline_ms: from their capture.
    """
    enough_ms = 10 * math.ceil((way_ms + deadline_ms) / 10)
    return Trouble(
        f"transport took {way_ms:.0f} ms of the {deadline_ms:g} ms that a frame has",
        f"start the camera with {profiles_variable()}={share_folder() / 'config/fastdds.xml'}, or "
        f"try images_over:=udp, or allow more with deadline_ms:={enough_ms}",
    )


def rivals(camera: str, changed_to: Sequence[int], names: Mapping[int, str]) -> Trouble | None:
    """What is wrong if frames of several producers alternate on a camera's channel.

    Args:
        camera: its name.
        changed_to: the endpoints of the producers, whenever that changed in the last period; once
            if one was started again.
        names: of endpoints.
    """
    if len(changed_to) < 2:
        return None
    who = sorted({names.get(one, "one that has ended") for one in changed_to})
    problem = f"shared memory of the camera {camera!r}: frames of several producers alternate"
    return Trouble(f"{problem}, of {', '.join(who)}", "end all but one of them")


def _unpublished(facts: ImageTopicFacts) -> Trouble:
    problem = f"nobody publishes on {facts.topic}"
    suffix = _suffix(facts.transport)
    base = facts.topic.removesuffix(suffix)
    for transport, message_type in facts.types.items():
        sibling = base + _suffix(transport)
        if facts.published.get(sibling) == message_type:
            remedy = f"set image_transport:={transport}"
            return Trouble(f"{problem}, but {sibling} is published", remedy)
    others = sorted(
        topic.removesuffix(suffix)
        for topic, message_type in facts.published.items()
        if message_type == facts.wanted and topic.endswith(suffix)
    )
    if others:
        remedy = f"set image_topic:={others[0]}"
        return Trouble(f"{problem}; images are on {_first(others)}", remedy)
    if facts.published:
        elsewhere = _first(sorted(facts.published))
        return Trouble(f"{problem}; images of another type are on {elsewhere}")
    return Trouble(
        problem,
        "start the camera's driver in the same ROS_DOMAIN_ID, name its topic with image_topic:=, "
        "or export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET if it is on another machine",
    )


def _other_type(facts: ImageTopicFacts) -> Trouble:
    found = facts.publishers[0].message_type
    problem = f"{facts.topic} is of type {found}, {facts.wanted} is awaited"
    for transport, message_type in facts.types.items():
        if message_type == found:
            base = facts.topic.removesuffix(_suffix(transport))
            named = base + _suffix(transport)
            remap = "" if named == facts.topic else f" --ros-args -r {named}:={facts.topic}"
            return Trouble(problem, f"set image_topic:={base} image_transport:={transport}{remap}")
    return Trouble(problem, "name the topic of the images with image_topic:=")


def _suffix(transport: str) -> str:
    """What is appended to a camera's topic."""
    return "" if transport == "raw" else f"/{transport}"


def _first(topics: Sequence[str]) -> str:
    return ", ".join([*topics[:NAMED], *["..."] * (len(topics) > NAMED)])


def _names(publishers: Sequence[Publisher]) -> str:
    return ", ".join(map(str, publishers)) or "its publisher"


def _lost(facts: ImageTopicFacts, publishers: Sequence[Publisher]) -> Trouble:
    lost, sent = facts.lost, facts.lost + facts.received
    problem = f"{facts.topic}: {lost} of {sent} frames of {_names(publishers)} did not arrive whole"
    unreliable = not all(p.reliable for p in publishers)
    if any(not p.is_here for p in publishers):
        reliably = ", reliable delivery" if unreliable else ""
        return Trouble(f"{problem}: the network loses them", f"compressed images{reliably} help")
    reliably = "publish with reliable delivery, or " if unreliable else ""
    return Trouble(
        f"{problem}: Fast DDS's default shared-memory segment is too small for images",
        f"{reliably}start the publisher with {profiles_variable()}="
        f"{share_folder() / 'config/fastdds.xml'}",
    )
