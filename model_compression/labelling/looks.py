"""What detectors saw in views of frames, kept on disk: looking takes hours, fusing seconds."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_compression.labelling.boxes import Boxes
from perception_nodes.system.files import write_whole


@dataclass(frozen=True)
class Voice:
    """A detector that looks at one view of each frame.

    Attributes:
        detector: its name.
        view: a name of `VIEWS`.
    """

    detector: str
    view: str

    def __str__(self) -> str:
        """Name the folder of its looks."""
        return f"{self.detector}-{self.view}"


def write_look(found: Boxes, path: Path) -> None:
    """Write what a voice saw, as a whole or not at all."""
    packed = io.BytesIO()
    np.savez_compressed(packed, corners=found.corners, scores=found.scores, names=found.names)
    write_whole(path, packed.getvalue())


def read_look(path: Path) -> Boxes:
    """Read what a voice saw."""
    with np.load(path) as kept:
        return Boxes(kept["corners"], kept["scores"], kept["names"])
