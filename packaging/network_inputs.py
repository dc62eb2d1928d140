"""Writes frames of the sample drive as the network sees them, a folder of pictures.

    python packaging/network_inputs.py EVERY FOLDER

takes one frame in EVERY. `arm64_test.py` compares them between machines, and gives both the same.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, installed or not

from perception_nodes.core.frame import FrameHeader  # noqa: E402
from perception_nodes.drives.bag import open_drive  # noqa: E402
from perception_nodes.networks.model import load_model  # noqa: E402
from perception_nodes.transport.cdr_reader import read_image  # noqa: E402

DRIVE = Path(__file__).parents[1] / "bags/sample_sqlite3"


def main() -> int:
    """Write the folder; return the exit status."""
    every, folder = int(sys.argv[1]), Path(sys.argv[2])
    model = load_model("open-n")
    preprocessor = model.input.preprocessor()
    image = np.zeros((model.input.height, model.input.width, 3), np.uint8)
    folder.mkdir(parents=True)
    for frame in open_drive(DRIVE, "").frames():
        if frame.index % every == 0:
            preprocessor.write(read_image(frame.data), image, FrameHeader())
            cv2.imwrite(str(folder / f"{frame.index:04}.png"), image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
