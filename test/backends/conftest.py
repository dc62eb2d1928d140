"""Street frames for all tests here."""

import numpy as np
import pytest

from perception_nodes.core.frame import FrameHeader
from perception_nodes.drives.bag import open_drive
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.transport.cdr import read_image


@pytest.fixture(scope="module")
def streets(model, root):
    """Frames of the sample drive, as the detector gets them, each in memory of its own."""
    sample = root / "bags/sample"
    if not (sample / "metadata.yaml").is_file():
        pytest.skip("the sample drive is not made (make sample)")
    size = (model.input.width, model.input.height)
    preprocessor = Preprocessor(*size, undistort=True)
    images = []
    for frame in open_drive(sample, "").frames():
        if frame.index % 20 == 0:
            images.append(np.empty((*size[::-1], 3), np.uint8))
            preprocessor.write(read_image(frame.data), images[-1], FrameHeader())
    return images
