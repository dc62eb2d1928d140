"""Frames of the sample drive, as the detector gets them."""

from pathlib import Path

import numpy as np
import pytest

from perception_nodes.core.frame import FrameHeader
from perception_nodes.drives.bag import open_drive
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.transport.cdr_reader import read_image

SAMPLE = Path(__file__).parents[2] / "bags/sample"


def street_frames(model, choose):
    """Frames in the input size of a model, uint8 [height, width, 3], each in memory of its own.

    Args:
        model: says the input size.
        choose: given the number of frames of the drive, returns the indices of those wanted.
    """
    if not (SAMPLE / "metadata.yaml").is_file():
        pytest.skip("the sample drive is not made (make sample)")
    preprocessor = Preprocessor(model.input.width, model.input.height, undistort=True)
    drive = open_drive(SAMPLE, "")
    wanted = choose(drive.frame_count)
    for frame in drive.frames():
        if frame.index in wanted:
            image = np.zeros((model.input.height, model.input.width, 3), np.uint8)
            preprocessor.write(read_image(frame.data), image, FrameHeader())
            yield image


def every(step):
    """Choose every `step`-th frame, from the first one on."""
    return lambda count: range(0, count, step)


def spread(number):
    """Choose this number of frames, evenly spread over the drive."""
    return lambda count: {(2 * n + 1) * count // (2 * number) for n in range(number)}
