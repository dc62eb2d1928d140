"""Frames of the sample drive, as the detector gets them."""

import numpy as np
import pytest

from perception_nodes.core.frame import FrameHeader
from perception_nodes.drives.bag import open_drive
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.transport.cdr import read_image


def streets(model, root, most):
    """So many frames, spread over the drive, uint8 [height, width, 3]."""
    sample = root / "bags/sample"
    if not (sample / "metadata.yaml").is_file():
        pytest.skip("the sample drive is not made (make sample)")
    preprocessor = Preprocessor(model.input.width, model.input.height, undistort=True)
    drive = open_drive(sample, "")
    wanted = {(2 * number + 1) * drive.frame_count // (2 * most) for number in range(most)}
    for frame in drive.frames():
        if frame.index in wanted:
            image = np.zeros((model.input.height, model.input.width, 3), np.uint8)
            preprocessor.write(read_image(frame.data), image, FrameHeader())
            yield image
