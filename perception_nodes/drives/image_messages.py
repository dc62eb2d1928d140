"""Pictures as the ROS messages in which a camera would have published them."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.frame import ImageView
from perception_nodes.transport.cdr_writer import write_compressed_image, write_image

FRAME_ID = "camera"


def image_message(stamp_ns: int, pixels: NDArray[np.uint8]) -> bytes:
    """Serialize uint8 [height, width, 3] BGR as `sensor_msgs/msg/Image`."""
    return write_image(replace(ImageView.of_pixels(pixels), stamp_ns=stamp_ns, frame_id=FRAME_ID))


def compressed_message(stamp_ns: int, file: bytes) -> bytes:
    """Serialize the bytes of a JPEG or PNG as `sensor_msgs/msg/CompressedImage`."""
    return write_compressed_image(stamp_ns, FRAME_ID, "jpeg", file)
