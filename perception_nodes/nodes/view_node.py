"""Shows the graph on a page in the browser: see `perception_nodes.view`.

It is the nicest of all processes, and reads frames only while a browser looks or somebody
subscribes to what was found in them.
"""

import socket
import time
from collections import deque
from functools import partial
from typing import Any

from perception_interfaces.msg import FrameReport, Health
from rcl_interfaces.srv import GetParameters
from rclpy.exceptions import NameValidationException
from rclpy.serialization import deserialize_message
from std_msgs.msg import Bool
from vision_msgs.msg import Detection2DArray, VisionInfo

from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.graph.config import ViewSettings
from perception_nodes.graph.page import NEEDS_AIOHTTP, page_token
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.topics import FRAME_REPORTS, HEALTH, TRACKED_DETECTIONS, VISION_INFO
from perception_nodes.nodes.annotated_topic import AnnotatedTopics
from perception_nodes.nodes.base import LATCHED, PerceptionNode
from perception_nodes.system.environment import package_version
from perception_nodes.transport.memory import TransportError
from perception_nodes.transport.shm import Endpoint
from perception_nodes.view.feed import Feed
from perception_nodes.view.objects import Objects
from perception_nodes.view.pictures import Pictures

WAIT_MS = 10.0
PICTURE_WAIT_S = 0.1
"""A report waits this long for its frame to be taken up."""
AGAIN_S = 2.0
"""Channels that cannot be entered are tried again after this time."""
MAX_WAITING = 64
REPORT_QUEUE = 50
"""Two seconds at 25 Hz. A page that gets too little of a processor drops reports, instead of
showing older and older ones, and tells how many frames it has not seen."""
TRACK_QUEUE = 10


class ViewNode(PerceptionNode):
    """Listens to reports, health and safe stop, and takes pictures from shared memory."""

    settings_type = ViewSettings
    # What keeps processors awake is in the background: beside it the page stood still.
    niceness = 19
    _channels: Endpoint | None = None
    _enter_at_s = 0.0

    def open(self) -> None:
        """Subscribe, serve the page."""
        try:
            from perception_nodes.view.server import PageServer
        except ImportError:
            raise SettingsError(f"view_node {NEEDS_AIOHTTP}") from None
        settings: ViewSettings = self.settings
        about = {
            "host": socket.gethostname(),
            "domain": str(self.context.get_domain_id()),
            "version": package_version(),
        }
        self._feed = Feed(settings.served, settings.deadline_ms, settings.view_rate, about)
        self._waiting: deque[tuple[float, str, FrameReport]] = deque()
        self._pictures: dict[str, Pictures] = {}
        self._annotated: dict[str, AnnotatedTopics] = {}
        self._objects = {camera: Objects() for camera in settings.served}
        for camera in settings.served:
            for kind, topic, heard, qos in (
                (FrameReport, FRAME_REPORTS, self._on_report, REPORT_QUEUE),
                (Health, HEALTH, self._on_health, LATCHED),
                (VisionInfo, VISION_INFO, self._on_vision_info, LATCHED),
            ):
                topic = settings.topic_of(topic, camera)
                self.add_subscription(kind, topic, partial(heard, camera), qos, raw=False)
            self._annotated[camera] = AnnotatedTopics(self, camera, settings.view_rate)
            topic = settings.topic_of(TRACKED_DETECTIONS, camera)
            heard = partial(self._on_tracked, camera)
            self.add_subscription(Detection2DArray, topic, heard, TRACK_QUEUE)
        self.add_subscription(Bool, settings.safe_stop_topic, self._on_stop, LATCHED, raw=False)
        place = settings.view_address, settings.view_port, page_token(settings)
        self._server = self.own(PageServer(self._feed, *place, settings.view_rate))
        self._server.start()
        self.get_logger().info(f"the page is at {settings.view_url}")

    def step(self) -> None:
        """Take up frames while somebody looks, and take one message."""
        wanted = any(topics.are_wanted for topics in self._annotated.values())
        if wanted or self._server.is_looked_at:
            self._take_pictures()
        elif self._channels is not None:
            self._leave_channels()
        self._show_frames()
        self._feed.turned()
        self.spin(WAIT_MS)

    def close(self) -> None:
        """Leave the channels."""
        self._leave_channels()

    def _take_pictures(self) -> None:
        if any(pictures.silent for pictures in self._pictures.values()):
            self._leave_channels()
        if self._channels is None and time.monotonic() > self._enter_at_s:
            try:
                settings: ViewSettings = self.settings
                channels = self._channels = Endpoint(self.get_name())
                limits = settings.deadline_ms, settings.sample_bits
                for camera in settings.served:
                    self._pictures[camera] = Pictures(channels, camera, *limits)
            except (TransportError, OSError) as error:  # such as too many open files
                self._leave_channels()
                self._enter_at_s = time.monotonic() + AGAIN_S
                self.get_logger().warning(f"no pictures: {error}", once=True)
        for pictures in self._pictures.values():
            pictures.take()

    def _leave_channels(self) -> None:
        """Leave, so that cameras and detectors do not know of us while nobody looks."""
        if self._channels is None:
            return
        for pictures in self._pictures.values():
            pictures.release()
        self._pictures = {}
        self._channels.close()
        self._channels = None

    def _show_frames(self) -> None:
        """Add the frames whose reports have come, each with its picture if one is wanted."""
        now_s = time.monotonic()
        while self._waiting:
            came_s, camera, report = self._waiting[0]
            pictures, picture = self._pictures.get(camera), None
            for_page = self._server.is_looked_at and self._feed.wants_picture(camera, report.status)
            if pictures is not None and (for_page or self._annotated[camera].are_wanted):
                if (shot := pictures.shot(report)) is not None:
                    objects = self._objects[camera]
                    found = objects.found(report, pictures.found(report))
                    self._annotated[camera].publish(report, shot, found)
                    picture = objects.picture(report, shot, found) if for_page else None
                elif now_s - came_s < PICTURE_WAIT_S and pictures.knows(report):
                    return
            self._waiting.popleft()
            self._feed.frame(camera, report, picture)

    # Anybody may publish messages that none of our nodes would; the page goes on without them.

    def _on_report(self, camera: str, report: FrameReport) -> None:
        if report.status not in set(FrameStatus):
            self.get_logger().warning(f"reports of status {report.status} are not used", once=True)
            return
        if camera in self._pictures:
            self._pictures[camera].hear(report)
        self._waiting.append((time.monotonic(), camera, report))
        if len(self._waiting) > MAX_WAITING:
            _, camera, report = self._waiting.popleft()
            self._feed.frame(camera, report)

    def _on_health(self, camera: str, health: Health) -> None:
        if health.mode not in set(HealthMode):
            self.get_logger().warning(f"health of mode {health.mode} is not used", once=True)
            return
        counts = {status.name: getattr(health, status.name.lower()) for status in FrameStatus}
        self._feed.health(camera, health.mode, health.cause, health.faults, counts)

    def _on_tracked(self, camera: str, data: bytes) -> None:
        if self._pictures:
            self._objects[camera].identify(deserialize_message(data, Detection2DArray))

    def _on_stop(self, request: Bool) -> None:
        self._feed.safe_stop(request.data)

    def _on_vision_info(self, camera: str, info: VisionInfo) -> None:
        """Ask the node that VisionInfo names for the names of the classes."""
        self._feed.runs(camera, info.method)
        node, _, parameter = info.database_location.rpartition("/")
        try:
            client: Any = self.create_client(GetParameters, f"{node}/get_parameters")
        except (NameValidationException, ValueError):
            self.get_logger().warning(f"VisionInfo with the node {node!r} is not used", once=True)
            return
        call = client.call_async(GetParameters.Request(names=[parameter]))

        def named(done: Any) -> None:
            values = done.result().values
            self._objects[camera].names = list(values[0].string_array_value) if values else []
            self.destroy_client(client)

        call.add_done_callback(named)


if __name__ == "__main__":
    ViewNode.main()
