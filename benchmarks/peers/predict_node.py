"""A plain rclpy node around ultralytics' predict, as a user would write it.

Its queue holds one image, since with a longer one a slow network would see ever older frames.
"""

import argparse

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from ultralytics import YOLO
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose


class PredictNode(Node):
    """Subscribes, predicts, publishes."""

    def __init__(self, given: argparse.Namespace) -> None:
        super().__init__("predict")
        self._model = YOLO(given.weights)
        self._size = [given.height, given.width]
        self._predict(np.zeros((given.height, given.width, 3), np.uint8))
        self._results = self.create_publisher(Detection2DArray, given.detections, 10)
        self.create_subscription(Image, given.images, self._on_image, QoSProfile(depth=1))
        self.get_logger().info("ready")

    def _predict(self, picture: np.ndarray):
        return self._model.predict(picture, imgsz=self._size, verbose=False)[0].boxes

    def _on_image(self, message: Image) -> None:
        rows = np.asarray(message.data, np.uint8).reshape(message.height, message.step)
        picture = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
        if message.encoding == "rgb8":
            picture = np.ascontiguousarray(picture[:, :, ::-1])
        boxes = self._predict(picture)
        found = Detection2DArray(header=message.header)
        for box, score, label in zip(
            boxes.xywh.tolist(), boxes.conf.tolist(), boxes.cls.tolist(), strict=True
        ):
            one = Detection2D(header=message.header)
            one.bbox.center.position.x, one.bbox.center.position.y = box[:2]
            one.bbox.size_x, one.bbox.size_y = box[2:]
            hypothesis = ObjectHypothesisWithPose()
            hypothesis.hypothesis.class_id = self._model.names[int(label)]
            hypothesis.hypothesis.score = score
            one.results.append(hypothesis)
            found.detections.append(one)
        self._results.publish(found)


def main() -> None:
    """Run until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, help="a model file of ultralytics")
    parser.add_argument("--width", type=int, required=True, help="input width, pixels")
    parser.add_argument("--height", type=int, required=True, help="input height, pixels")
    parser.add_argument("--images", required=True, help="topic of sensor_msgs/Image")
    parser.add_argument("--detections", required=True, help="topic of the results")
    given = parser.parse_args()
    rclpy.init()
    try:
        rclpy.spin(PredictNode(given))
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


if __name__ == "__main__":
    main()
