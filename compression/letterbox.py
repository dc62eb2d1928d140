"""Fit a frame into the model's input, as the run time does."""

import cv2
import numpy as np

from compression.contract import INPUT_HEIGHT_PX, INPUT_WIDTH_PX, PAD_VALUE


def letterbox(
    frame: np.ndarray, width_px: int = INPUT_WIDTH_PX, height_px: int = INPUT_HEIGHT_PX
) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Scale a frame (uint8 [h, w, 3]) to fit, centre it and pad the rest.

    Returns the input (uint8 [height_px, width_px, 3]), the scale, and the (x, y) of the frame's
    corner in it, in pixels: ``input = frame * scale + corner``.
    """
    scale = min(width_px / frame.shape[1], height_px / frame.shape[0])
    inner_width, inner_height = round(frame.shape[1] * scale), round(frame.shape[0] * scale)
    x, y = (width_px - inner_width) // 2, (height_px - inner_height) // 2
    canvas = np.full((height_px, width_px, 3), PAD_VALUE, np.uint8)
    canvas[y : y + inner_height, x : x + inner_width] = cv2.resize(
        frame, (inner_width, inner_height), interpolation=cv2.INTER_LINEAR
    )
    return canvas, scale, (x, y)
