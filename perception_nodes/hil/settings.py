"""Parameters of the nodes that exist for fault injection only."""

from pydantic import Field

from perception_nodes.config import PlayerSettings, Settings, Topic


class FaultCameraSettings(PlayerSettings):
    """Parameters of fault_camera_node."""

    faults: str = Field(default="[]", description="JSON of the camera's faults, a list")
    started_file: str = Field(
        default="", description="file that receives the first frame's time, ns since the epoch"
    )
    played_file: str = Field(
        default="",
        description="JSON file that receives how many frames each fault has hit, and how many "
        "were sent behind the drive's end",
    )


class SlowSubscriberSettings(Settings):
    """Parameters of slow_subscriber_node."""

    detections_topic: Topic = Field(
        default="/perception/detections", description="vision_msgs/Detection2DArray"
    )
    delay_ms: float = Field(
        default=200.0, ge=0, le=60_000, description="what it takes for each message"
    )
