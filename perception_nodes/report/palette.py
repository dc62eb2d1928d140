"""The colours and shapes of statuses and stages, the same on every page and picture."""

from perception_nodes.core.frame import FrameStatus
from perception_nodes.core.health import HealthMode

STATUS_COLOURS = {
    FrameStatus.OK: "#1f9d55",
    FrameStatus.LATE: "#e8590c",
    FrameStatus.SKIPPED_LATE: "#f2a900",
    FrameStatus.SUPERSEDED: "#868e96",
    FrameStatus.DEGRADED: "#0b7285",
    FrameStatus.FAILED: "#d6336c",
}
STATUS_SHAPES = {
    FrameStatus.OK: "●",
    FrameStatus.LATE: "▲",
    FrameStatus.SKIPPED_LATE: "◆",
    FrameStatus.SUPERSEDED: "■",
    FrameStatus.DEGRADED: "▼",
    FrameStatus.FAILED: "✖",
}
"""What statuses differ by where colours do not show."""
HEALTH_COLOURS = {
    HealthMode.NOMINAL: "#1f9d55",
    HealthMode.DEGRADED: "#1c7ed6",
    HealthMode.SKIPPING: "#f2a900",
    HealthMode.UNSAFE: "#d6336c",
}
STAGE_COLOURS = ("#a5b4fc", "#67c7e8", "#7b93ff", "#b197fc", "#ced4da")
"""In the order of `STAGES`; dark letters are legible on them."""
LOOK_COLOUR = "#ced4da"
"""Of the frame around the region of a second look."""
