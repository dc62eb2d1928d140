"""What is on the topics of the ROS domain, for who has no `ros2` command."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NamedTuple

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from perception_nodes.core.errors import PerceptionError
from perception_nodes.graph.misnamed import LITTLE_ALIKE
from perception_nodes.nodes.image_transports import message_class
from perception_nodes.system.environment import ros_environment

DISCOVERY_S = 2.0
"""Publishers are usually discovered within this time."""
AT_MOST_S = 10.0
"""A publisher is waited for so long: on a busy machine discovery takes longer."""
LOOK_S = 0.1
MOST_VALUES = 64
"""Of a longer list, such as a picture, only the length is shown."""


class Topic(NamedTuple):
    """A topic of the domain: its type, and how many publish and subscribe."""

    name: str
    type: str
    publishers: int
    subscribers: int


def topics() -> list[Topic]:
    """The topics that are known after the time of discovery."""
    with _listener() as (node, spin):
        _for_a_while(spin, DISCOVERY_S, lambda: False)
        return _known(node)


def echo(name: str, count: int, show: Callable[[dict[str, Any]], None]) -> None:
    """Show the messages of a topic as they come.

    Args:
        name: the topic; a relative name is below the root.
        count: ends after so many; 0: never.
        show: called with each message.

    Raises:
        PerceptionError: nobody publishes on it, or its type is not installed.
    """
    topic, heard = f"/{name.lstrip('/')}", 0

    def take(message: Any) -> None:
        nonlocal heard
        if not count or heard < count:
            heard += 1
            show(as_mapping(message))

    with _listener() as (node, spin):
        _for_a_while(spin, AT_MOST_S, lambda: node.get_publishers_info_by_topic(topic))
        if not (publishers := node.get_publishers_info_by_topic(topic)):
            known = [one.name for one in _known(node) if one.publishers]
            alike = get_close_matches(topic, known, n=1, cutoff=LITTLE_ALIKE)
            hint = f"did you mean {alike[0]}?" if alike else "perception topics lists what there is"
            raise PerceptionError(f"nobody publishes on {topic} in this ROS domain; {hint}")
        kind = message_class(publishers[0].topic_type)
        # A subscription that asks for less than is offered hears all.
        offered = [one.qos_profile for one in publishers]
        qos = QoSProfile(
            depth=100,
            reliability=max(one.reliability for one in offered),
            durability=max(one.durability for one in offered),
        )
        subscription = node.create_subscription(kind, topic, take, qos)
        while not count or heard < count:
            spin()
        node.destroy_subscription(subscription)


def as_mapping(message: Any) -> Any:
    """A message as dictionaries, lists and plain values."""
    if hasattr(message, "get_fields_and_field_types"):
        names = message.get_fields_and_field_types()
        return {name: as_mapping(getattr(message, name)) for name in names}
    if isinstance(message, (str, bool, int, float)):
        return message
    if isinstance(message, bytes):
        return message[0]
    if len(message) > MOST_VALUES:
        return f"{len(message)} values"
    values: Sequence[Any] = message.tolist() if hasattr(message, "tolist") else message
    return [as_mapping(value) for value in values]


def _known(node: Node) -> list[Topic]:
    return [
        Topic(name, kinds[0], node.count_publishers(name), node.count_subscribers(name))
        for name, kinds in sorted(node.get_topic_names_and_types())
    ]


def _for_a_while(spin: Callable[[], None], most_s: float, is_enough: Callable[[], Any]) -> None:
    give_up_s = time.monotonic() + most_s
    while not is_enough() and time.monotonic() < give_up_s:
        spin()


@contextmanager
def _listener() -> Iterator[tuple[Node, Callable[[], None]]]:
    """A node, and a function that takes a message or waits for one."""
    os.environ.update(ros_environment(images=True))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node("perception_listener", start_parameter_services=False)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        yield node, lambda: executor.spin_once(timeout_sec=LOOK_S)
    finally:
        rclpy.shutdown()
