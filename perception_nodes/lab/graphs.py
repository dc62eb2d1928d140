"""Graphs that only benchmarks start, and the parameters of their nodes."""

from pydantic import Field

from perception_nodes.graph.config import DetectorSettings, PreprocessSettings, Settings
from perception_nodes.graph.graph import LIVE, PLAYER, REPLAY, REPUBLISH, Graph
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


class RecorderSettings(Settings):
    """Parameters of recorder_node."""

    image_topic: Topic = same(PreprocessSettings, "image_topic")
    images_file: str = Field(default="", description="JSON file that receives the number of images")


RECEIVER = NodeKind("receiver_node", ReceiverSettings, PACKAGE)

MEASURED = Graph((RECEIVER, *REPLAY.kinds))
"""A played drive, with a receiver that records when detections arrive."""

BESIDE_RECORDER = Graph(
    (NodeKind("recorder_node", RecorderSettings, PACKAGE), RECEIVER, *LIVE.kinds, REPUBLISH, PLAYER)
)
"""The same, and a recorder that subscribes to the images of shared memory."""

CAMERA = Graph((PLAYER,))
"""A camera alone."""
