"""Labels that people made of a frame."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_compression.errors import CompressionError
from model_compression.labelling.frames import Frame
from perception_nodes.evaluation.yolo import distinct, label_file, read_line


def read_people(data: Path, frame: Frame, size_px: tuple[int, int]) -> NDArray[np.float64]:
    """Read the YOLO labels beside a frame; none for a frame of a video, or without a file.

    Args:
        data: folder of the data.
        frame: whose labels.
        size_px: its width and height.

    Returns:
        float64 [n, 5], the set's class id, then left, top, right and bottom in pixels.

    Raises:
        CompressionError: a line is no label.
    """
    path = label_file(data / frame.image)
    rows = []
    if frame.index is None and path.is_file():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            try:
                rows += [read_line(line)] if line.strip() else []
            except ValueError as error:
                raise CompressionError(
                    f"{path}:{number}: {line.strip()!r} is no label: {error}; correct or remove it"
                ) from error
    found = distinct(np.array(rows, np.float64).reshape(-1, 5))
    centre, half = found[:, 1:3], found[:, 3:5] / 2
    corners = np.hstack([centre - half, centre + half]).clip(0, 1) * np.array(size_px * 2)
    return np.hstack([found[:, :1], corners])
