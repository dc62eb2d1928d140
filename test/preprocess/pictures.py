"""Pictures in every encoding, made by independent code."""

import cv2
import numpy as np

from perception_nodes.core.frame import ImageView
from perception_nodes.preprocess.formats import ALIASES, BYTES_PER_PIXEL, DEEP, PACKED

ENCODINGS = *BYTES_PER_PIXEL, *PACKED, *(a for a, one in ALIASES.items() if one in BYTES_PER_PIXEL)
DEEP_ENCODINGS = *DEEP, *(name for name, one in ALIASES.items() if one in DEEP)
"""Those with 16 bits a sample; at most as many are significant as the name states."""


def scene(width, height, seed=0):
    """A smooth BGR picture of middling colours: nothing clips, nothing aliases."""
    cells = np.random.default_rng(seed).integers(50, 206, (4, 6, 3)).astype(np.uint8)
    return cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)


def noise(width, height, seed=0):
    """A frame of random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def encode(bgr, encoding):
    """The rows of a frame that shows a BGR picture, uint8 [rows, bytes]."""
    height, width = bgr.shape[:2]
    if encoding in PACKED:
        samples, group = encode(bgr, PACKED[encoding][0]), 4 if "10" in encoding else 2
        groups = samples.reshape(height, width // group, group)
        # Behind each group is a byte of lower bits, here full ones.
        return np.pad(groups, ((0, 0), (0, 0), (0, 1)), constant_values=255).reshape(height, -1)
    if encoding in ("bgr8", "8uc3"):
        return bgr.reshape(height, -1)
    if encoding == "rgb8":
        return bgr[:, :, ::-1].reshape(height, -1)
    if encoding in ("bgra8", "8uc4", "rgba8"):
        colours = bgr[:, :, ::-1] if encoding == "rgba8" else bgr
        return np.dstack([colours, np.full((height, width), 7, np.uint8)]).reshape(height, -1)
    if encoding in ("mono8", "8uc1"):
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    if encoding.startswith("bayer"):
        pattern = encoding[len("bayer_") : -1]
        mosaic = np.empty((height, width), np.uint8)
        for position, colour in enumerate(pattern):
            row, column = divmod(position, 2)
            mosaic[row::2, column::2] = bgr[row::2, column::2, "bgr".index(colour)]
        return mosaic
    planar = cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420)
    luma = planar[:height]
    u, v = planar[height:].reshape(2, height // 2, width // 2)
    if encoding == "i420":
        return np.vstack([luma, planar[height:].reshape(height // 2, width)])
    if encoding in ("nv12", "nv21"):
        pair = (u, v) if encoding == "nv12" else (v, u)
        return np.vstack([luma, np.dstack(pair).reshape(height // 2, width)])
    rows = np.empty((height, width, 2), np.uint8)
    first, second = (1, 0) if encoding in ("uyvy", "yuv422") else (0, 1)
    rows[:, :, first] = luma
    rows[:, 0::2, second] = np.repeat(u, 2, axis=0)
    rows[:, 1::2, second] = np.repeat(v, 2, axis=0)
    return rows.reshape(height, -1)


def deep_encode(bgr, encoding, bits):
    """Rows of 16-bit samples, of which `bits` are significant, as bytes."""
    family = {"16uc1": "mono", "16uc3": "bgr", "16uc4": "bgra"}.get(encoding)
    samples = encode(bgr, f"{family or encoding[:-2]}8").astype(np.float64) / 255 * (2**bits - 1)
    return np.round(samples).astype("<u2").view(np.uint8)


def frame(bgr, encoding, padding=0, bits=0):
    """A frame that shows a BGR picture, with unused bytes behind each row."""
    height, width = bgr.shape[:2]
    rows = encode(bgr, encoding) if not bits else deep_encode(bgr, encoding, bits)
    parts, step = [rows], rows.shape[1] + padding
    if encoding == "i420":
        step += step % 2
        parts = [rows[:height], rows[height:].reshape(height, width // 2)]
    beside = [((0, 0), (0, step * one.shape[1] // rows.shape[1] - one.shape[1])) for one in parts]
    padded = [np.pad(*one, constant_values=255) for one in zip(parts, beside, strict=True)]
    return view(width, height, encoding, step, b"".join(one.tobytes() for one in padded))


def view(width, height, encoding, step, data):
    return ImageView(0, "camera", width, height, encoding, step, memoryview(data))


def compressed(encoding, data):
    return view(0, 0, encoding, 0, data)
