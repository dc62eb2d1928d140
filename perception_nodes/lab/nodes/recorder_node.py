"""Takes a camera's images from DDS as `ros2 bag record` does, and counts them."""

import json
from pathlib import Path

from sensor_msgs.msg import Image

from perception_nodes.lab.graphs import RecorderSettings
from perception_nodes.nodes.base import IDLE_WAIT_MS, PerceptionNode
from perception_nodes.system.files import write_whole


class RecorderNode(PerceptionNode):
    """Subscribes to serialized images."""

    settings_type = RecorderSettings
    _images = 0

    def open(self) -> None:
        """Subscribe."""
        self.add_subscription(Image, self.settings.image_topic, self._on_image, 10)

    def step(self) -> None:
        """Take an image."""
        self.spin(IDLE_WAIT_MS)

    def close(self) -> None:
        """Write how many there were."""
        if self.settings.images_file:
            write_whole(Path(self.settings.images_file), json.dumps(self._images))

    def _on_image(self, _: bytes) -> None:
        self._images += 1


if __name__ == "__main__":
    RecorderNode.main()
