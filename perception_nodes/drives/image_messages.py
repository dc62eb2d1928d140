"""Pictures as the ROS messages in which a camera would have published them."""

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import ImageView
from perception_nodes.transport.cdr_writer import write_compressed_image, write_image

FRAME_ID = "camera"
JPEG_QUALITY = 95
"""OpenCV's own choice."""


def image_message(stamp_ns: int, pixels: NDArray[np.uint8]) -> bytes:
    """Serialize uint8 [height, width, 3] BGR as `sensor_msgs/msg/Image`."""
    return write_image(replace(ImageView.of_pixels(pixels), stamp_ns=stamp_ns, frame_id=FRAME_ID))


def compressed_message(stamp_ns: int, file: bytes) -> bytes:
    """Serialize the bytes of a JPEG or PNG as `sensor_msgs/msg/CompressedImage`."""
    return write_compressed_image(stamp_ns, FRAME_ID, "jpeg", file)


def picture_message(pixels: NDArray[np.uint8], jpeg_quality: int = 0) -> bytes:
    """Serialize uint8 [height, width, 3] BGR without a stamp; as JPEG if a quality is given."""
    if not jpeg_quality:
        return image_message(0, pixels)
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])[1]
    return compressed_message(0, jpeg.tobytes())
