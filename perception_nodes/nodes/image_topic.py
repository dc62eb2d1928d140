"""A camera's ROS topic: serialized images, taken without an executor."""

import time
import zlib
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from perception_nodes.cameras.awaited import ImageTopicFacts, Publisher
from perception_nodes.core.clock import since_receipt
from perception_nodes.graph.config import PreprocessSettings
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.topics import image_topic, is_annotated
from perception_nodes.nodes.base import PerceptionNode, Period
from perception_nodes.nodes.image_transports import TRANSPORTS, message_class
from perception_nodes.nodes.serialized import SerializedReader
from perception_nodes.transport.cdr_reader import Buffer

QUEUE = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
NEWEST_DEPTH = 1
"""Depth of the queue of images, of which only the newest is of use. A gap in the numbers reveals an
image that was pushed out, and few images stay warm in the cache. A video needs all its packets."""
OVERRIDABLE = QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH))
"""Policies that can be overridden; the reliability follows the publishers."""
REFUSED = ("reliability", "durability")
LOOK_PERIOD_NS = 1_000_000_000
NEW_SOURCE_NS = 5_000_000_000
"""A publisher that is first heard so long after we have subscribed has begun meanwhile."""
ANY_TYPE = ParameterDescriptor(dynamic_typing=True)
HOST_BYTES = 4
"""Bytes of a Fast DDS identifier that name the vendor and the host."""

TYPES = {name: transport.message_type for name, transport in TRANSPORTS.items()}


class EventsOnly(CallbackGroup):
    """Runs callbacks of a subscription's quality-of-service events, but none for messages."""

    def can_execute(self, entity: object) -> bool:
        """Whether an executor may run the entity's callback."""
        return not isinstance(entity, Subscription)

    def beginning_execution(self, entity: object) -> bool:
        """Allow the callback: they need not wait for one another."""
        return True

    def ending_execution(self, entity: object) -> None:
        """Nothing to do."""


class ImageTopic:
    """A subscription while it is open.

    A standby has none: the middleware would copy each image for it. Where the nodes know each other
    already, images come 2 to 15 ms after the subscription.

    It asks for the reliability that is offered. Reliable delivery brings images where best effort
    brings none, but a reliable subscription gets nothing from a best-effort camera.
    """

    def __init__(
        self,
        node: PerceptionNode,
        settings: PreprocessSettings,
        take: Callable[[Buffer, int, int | None, int, int, bool], None],
    ) -> None:
        """Prepare to subscribe.

        Args:
            node: owns the subscription.
            settings: topic and transport.
            take: called with a frame's bytes, which it may not keep, an identifier of its publisher
                (not 0), its number (None if the middleware does not number messages),
                CLOCK_MONOTONIC when it was taken and how long it had waited for that, nanoseconds,
                and whether a newer frame is waiting.

        Raises:
            SettingsError: a quality of service was given that cannot be overridden here.
        """
        transport = TRANSPORTS[settings.image_transport]
        self._node, self._take = node, take
        self._subscription: Any = None
        self._reader: SerializedReader | None = None
        self._depth = QUEUE.depth if transport.is_video else NEWEST_DEPTH
        self._transport = settings.image_transport
        self._type = message_class(transport.message_type)
        self._topic = image_topic(settings.image_topic, settings.image_transport)
        self._look_due = Period(LOOK_PERIOD_NS)
        self._known_publishers = 0
        self.read, self.copies = transport.read, transport.copies
        # The first call takes 40 ms, later ones 1 ms.
        self._subscribe(reliable=False)
        try:
            self._refuse_overrides()
        finally:
            self.close()

    def open(self) -> None:
        """Subscribe, and read from now on."""
        self._received = self._lost = self._publisher = self._changes = 0
        self._subscribe(self._offered(self._publishers()))
        self._opened_ns = time.monotonic_ns()

    @property
    def begins_at(self) -> int | None:
        """First number of a publisher that is heard now, see `FrameNumbers.missing_before`."""
        return 1 if time.monotonic_ns() > self._opened_ns + NEW_SOURCE_NS else None

    def close(self) -> None:
        """Unsubscribe."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def waits(self) -> bool:
        """Whether a frame has come since the last ones were taken."""
        return self._reader is not None and self._reader.waits()

    def receive(self, timeout_ms: float) -> None:
        """Wait for frames until the timeout, and have them taken."""
        assert self._reader is not None
        self._reader.wait(timeout_ms)
        taken = self._reader.take()
        while taken is not None:
            received_ns = time.monotonic_ns()
            waited_ns = since_receipt(time.time_ns() - taken.received_realtime_ns)
            self._received += 1
            before, taken = taken, self._reader.take()
            publisher = zlib.crc32(before.publisher) | 1
            self._changes += self._publisher not in (0, publisher)
            self._publisher = publisher
            superseded = taken is not None
            self._take(before.data, publisher, before.number, received_ns, waited_ns, superseded)

    def look(self) -> ImageTopicFacts | None:
        """Follow the publishers that come and go; to be called every few milliseconds.

        Returns:
            Once a second what is known of the topic, with what arrived since the last time; None
            while it is closed.
        """
        if self._subscription is None:
            return None
        due = self._look_due.due()
        count = self._node.count_publishers(self._subscription.topic_name)
        if not due and count == self._known_publishers:
            return None
        self._known_publishers = count
        publishers = self._publishers()
        reliable = self._offered(publishers)
        if reliable != self._reliable:
            # The gap in the numbers shows the frames that are lost meanwhile.
            self.close()
            self._subscribe(reliable)
        if not due:
            return None
        topic, published = self._subscription.topic_name, {} if publishers else self._published()
        counts = self._received, self._lost, self._mismatched, self._changes
        facts = ImageTopicFacts(topic, self._transport, TYPES, publishers, published, *counts)
        self._received = self._lost = self._changes = 0
        return facts

    def _publishers(self) -> list[Publisher]:
        host = self._host()
        found = []
        for info in self._node.get_publishers_info_by_topic(self._topic):
            reliable = info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
            is_here = bytes(info.endpoint_gid[:HOST_BYTES]) == host
            found.append(Publisher(full_name(info), info.topic_type, reliable, is_here))
        return found

    def _offered(self, publishers: list[Publisher]) -> bool:
        """Whether all publishers of our type are reliable; without any, whether we asked for it."""
        fitting = [p.reliable for p in publishers if p.message_type == TYPES[self._transport]]
        return all(fitting) if fitting else self._reliable

    def _subscribe(self, reliable: bool) -> None:
        self._reliable, self._mismatched = reliable, ""
        events = SubscriptionEventCallbacks(
            message_lost=self._on_lost,
            incompatible_qos=self._on_mismatch,
            use_default_callbacks=False,
        )
        offered = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        self._subscription = self._node.create_subscription(
            self._type,
            self._topic,
            lambda _: None,
            QoSProfile(depth=self._depth, reliability=offered),
            raw=True,
            callback_group=EventsOnly(),
            event_callbacks=events,
            qos_overriding_options=OVERRIDABLE,
        )
        self._reader = SerializedReader(self._subscription)

    def _refuse_overrides(self) -> None:
        for policy in REFUSED:
            name = f"qos_overrides.{self._subscription.topic_name}.subscription.{policy}"
            # The node knows a given value only when its parameter is declared.
            given: object = self._node.declare_parameter(name, "", ANY_TYPE).value
            self._node.undeclare_parameter(name)
            if given:
                why = "the reliability of images is their publisher's and their durability volatile"
                raise SettingsError(
                    f"parameter {name}: {given!r} is not possible: {why}; leave it out"
                )

    def _published(self) -> dict[str, str]:
        """All image topics that somebody publishes as a camera, with their types."""
        node = self._node
        return {
            topic: types[0]
            for topic, types in node.get_topic_names_and_types()
            if types[0] in TYPES.values()
            and not is_annotated(topic)
            and node.count_publishers(topic)
        }

    def _host(self) -> bytes:
        """The bytes with which identifiers of all this machine's participants begin (Fast DDS)."""
        ours = self._node.get_fully_qualified_name()
        for info in self._node.get_subscriptions_info_by_topic(self._topic):
            if full_name(info) == ours:
                return bytes(info.endpoint_gid[:HOST_BYTES])
        return b""

    def _on_lost(self, event: Any) -> None:
        self._lost += event.total_count_change

    def _on_mismatch(self, event: Any) -> None:
        self._mismatched = event.last_policy_kind.name.removeprefix("RMW_QOS_POLICY_")


def full_name(info: Any) -> str:
    """The full name of an endpoint's node; empty while the middleware does not know it."""
    if info.node_name.startswith("_"):
        return ""
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"
