"""A camera's CameraInfo topic, for a preprocessor that removes the lens distortion."""

from sensor_msgs.msg import CameraInfo

from perception_nodes.core.frame import FrameRejected
from perception_nodes.graph.topics import info_topic
from perception_nodes.nodes.image_topic import QUEUE
from perception_nodes.nodes.redundant import RedundantNode
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.lens import UnknownLens
from perception_nodes.transport.cdr_reader import read_camera_info


class CalibrationTopic:
    """Passes a calibration on whenever it changes."""

    def __init__(self, node: RedundantNode, images: str, preprocessor: Preprocessor) -> None:
        """Subscribe.

        Args:
            node: owns the subscription, and is busy while a calibration is prepared.
            images: topic of the images.
            preprocessor: receives the calibration.
        """
        self._node, self._preprocessor = node, preprocessor
        self._last = b""
        node.add_subscription(CameraInfo, info_topic(images), self._on_camera_info, QUEUE)

    def _on_camera_info(self, data: bytes) -> None:
        # The header's stamp changes with each message, the calibration behind it does not.
        if data[12:] == self._last:
            return
        self._last = data[12:]
        try:
            with self._node.busy():
                self._preprocessor.calibrate(read_camera_info(data))
        except FrameRejected as error:
            said = f"a CameraInfo is not used, what was known before stays in force: {error}"
            self._node.get_logger().warning(said)
        except UnknownLens as error:
            self._node.get_logger().warning(f"frames are processed without calibration: {error}")
