"""The graphs that only fault injection starts, and the parameters of their nodes."""

from typing import Literal

from pydantic import Field

from perception_nodes.graph.config import DetectorSettings, PlayerSettings, Settings
from perception_nodes.graph.graph import LIVE, MONITOR, Graph
from perception_nodes.graph.node_spec import NodeKind
from perception_nodes.graph.settings import Topic, same

PACKAGE = "perception_nodes.faults.nodes"


class FaultCameraSettings(PlayerSettings):
    """Parameters of fault_camera_node."""

    faults: str = "[]"
    """the camera's faults, a JSON list"""
    started_file: str = ""
    """file that receives the time of the first frame, ns since the Unix epoch"""
    played_file: str = ""
    """JSON file that receives how many frames each fault has changed, and how many were sent after
    the end of the drive"""


class SlowSubscriberSettings(Settings):
    """Parameters of slow_subscriber_node."""

    detections_topic: Topic = same(DetectorSettings, "detections_topic")
    delay_ms: float = Field(default=200.0, ge=0, le=60_000)
    """time that the subscriber takes for each message"""


class FaultyDetectorSettings(DetectorSettings):
    """Parameters of the detector with the faulty backend."""

    backend: Literal["faulty"] = "faulty"  # type: ignore[assignment]


FAULT_CAMERA = NodeKind("fault_camera_node", FaultCameraSettings, PACKAGE, plays_drive=True)
SLOW_SUBSCRIBER = Graph((NodeKind("slow_subscriber_node", SlowSubscriberSettings, PACKAGE),))
"""A subscriber that cannot keep up."""

HIL = Graph((MONITOR, *LIVE.kinds, FAULT_CAMERA))
"""A drive played with faults, watched and recorded."""

BENCH = Graph((MONITOR, FAULT_CAMERA))
"""The same without the nodes under test, which run on another machine."""
