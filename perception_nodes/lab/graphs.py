"""Graphs that only benchmarks start, and the parameters of their nodes."""

from pydantic import Field

from perception_nodes.graph.config import DetectorSettings, PreprocessSettings, Settings
from perception_nodes.graph.graph import PLAYER, REPLAY, Graph
from perception_nodes.graph.node_spec import NodeKind
from perception_nodes.graph.settings import Source, Topic, same

PACKAGE = "perception_nodes.lab.nodes"


class ReceiverSettings(Settings):
    """Parameters of receiver_node."""

    source: Source = same(PreprocessSettings, "source")
    detections_topic: Topic = same(DetectorSettings, "detections_topic")
    recording: str = Field(
        default="", description="mcap file of arrivals and frame reports, or empty"
    )


RECEIVER = NodeKind("receiver_node", ReceiverSettings, PACKAGE)

MEASURED = Graph((RECEIVER, *REPLAY.kinds))
"""A played drive, with a receiver that records when detections arrive."""

CAMERA = Graph((PLAYER,))
"""A camera alone."""
