"""Opens a camera, a stream or a video file, and fills the camera's shared-memory channel."""

from typing import Any

from perception_nodes.cameras.camera_feed import CameraFeed
from perception_nodes.cameras.camera_source import CameraEnded, CameraError, CameraGone
from perception_nodes.graph.config import CameraSettings
from perception_nodes.graph.settings import SettingsError
from perception_nodes.graph.supervisor import SOURCE_ENDED
from perception_nodes.nodes.base import IDLE_WAIT_MS, PerceptionNode
from perception_nodes.nodes.graph_health import GraphHealth
from perception_nodes.system.realtime import RANKS
from perception_nodes.transport.memory import TransportError

STEP_MS = 50.0
ACCOUNTING_TIMEOUT_S = 30.0
"""At its end a file waits at most so long for the reports on its last frames."""


class CameraNode(PerceptionNode):
    """A live source gives frames at once; a file begins when the graph is at work."""

    settings_type = CameraSettings
    _source: Any = None

    def open(self) -> None:
        """Open the source."""
        settings: CameraSettings = self.settings
        if settings.source.startswith("v4l2:"):
            # Other sources decode a video, which takes long and must not come before the inference.
            self.rank = RANKS["camera"]
        self._is_started, self.exit_status = True, 0
        self._graph = GraphHealth(self)
        self._source = settings.open_source()
        names = settings.camera, self._source, settings.frame_id or settings.camera
        self._feed = self.own(CameraFeed(self.endpoint, *names, self._log))
        try:
            self._feed.open()
            self._is_started = not self._feed.is_file
            if self._is_started:
                self._feed.start()
            else:
                self._log(f"camera {settings.camera}: the file begins when all nodes are at work")
        except CameraGone as error:
            if not settings.wait_for_camera:
                raise
            self._is_started = not settings.source.startswith("http")  # it may be a file
            self._log(f"camera {settings.camera}: {error}; it is waited for")

    def change(self, settings: CameraSettings) -> None:
        """Set other controls; before it is configured, nothing is open."""
        try:
            settings.open_source()  # refuses them for any other kind of source
            if self._source is not None:
                self._source.set_controls(settings.controls)
        except CameraError as error:
            raise SettingsError(str(error), "controls") from error

    def rest(self) -> None:
        """Log how many frames there were."""
        if self._feed.sent:
            self._log(f"{self._feed.sent} frames sent, {self._feed.lost} lost by the source")

    def step(self) -> None:
        """Send a frame; at the begin and the end of a file, wait for the other nodes."""
        try:
            if self.exit_status == SOURCE_ENDED:
                frames = self._feed.sent + self._feed.lost
                self.finished = self._graph.is_done_with(frames, ACCOUNTING_TIMEOUT_S)
            elif self._is_started:
                self._feed.step(STEP_MS)
            else:
                self.spin(IDLE_WAIT_MS)
                if not self._graph.last.silent_processes:
                    self._is_started = True
                    if self._feed.is_file:
                        self._feed.start()
        except CameraEnded as ended:
            self._log(f"camera {self.settings.camera}: {ended}")
            self.exit_status = SOURCE_ENDED
        except (CameraError, TransportError) as error:
            self.error = str(error)  # this ends us, and the supervisor starts us again
            self.get_logger().error(self.error)

    def _log(self, line: str) -> None:
        self.get_logger().info(line)


if __name__ == "__main__":
    CameraNode.main()
