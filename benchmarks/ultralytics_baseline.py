"""A common setup, for comparison: typed rclpy subscription, cv2 conversion, ultralytics predict.

It is not part of the product: it needs torch and ultralytics (`make baseline`). `perception bench
latency --baseline` starts it; it records the time from a frame's stamp to its detections.
"""

import argparse
import json
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from ultralytics import YOLO


class Baseline(Node):
    """Subscribe, convert, predict."""

    def __init__(self, weights: str, width: int, height: int) -> None:
        """Load the model and warm it up, then subscribe to frames."""
        super().__init__("ultralytics_baseline")
        self._model = YOLO(weights)
        self._size = [height, width]
        for _ in range(3):
            self._predict(np.zeros((1080, 1920, 3), np.uint8))
        self.latencies_ms: list[float] = []
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(Image, "/camera/image_raw", self._on_image, qos)

    def _on_image(self, message: Image) -> None:
        pixels = np.asarray(message.data, np.uint8).reshape(message.height, message.width, 3)
        self._predict(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        self.latencies_ms.append((time.time_ns() - stamp_ns) / 1e6)

    def _predict(self, picture: np.ndarray) -> None:
        boxes = self._model.predict(picture, imgsz=self._size, verbose=False)[0].boxes
        boxes.xyxy.cpu().numpy()


def main() -> None:
    """Run until SIGINT, then write the latencies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, help="an ultralytics model file or name")
    parser.add_argument("--width", type=int, required=True, help="input width, pixels")
    parser.add_argument("--height", type=int, required=True, help="input height, pixels")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the latencies")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    rclpy.init()
    node = Baseline(arguments.weights, arguments.width, arguments.height)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    arguments.out.write_text(json.dumps(node.latencies_ms))


if __name__ == "__main__":
    main()
