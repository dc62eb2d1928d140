"""One process's part of a labelling."""

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from model_compression.labelling.boxes import Boxes
from model_compression.labelling.calibration import Calibration
from model_compression.labelling.detectors import KINDS, Detector
from model_compression.labelling.frames import Frame
from model_compression.labelling.fusion import Objects, fuse
from model_compression.labelling.held_out import HeldOut
from model_compression.labelling.kinds import Votes, vote
from model_compression.labelling.labeller import Probable, decide, is_sure, probable
from model_compression.labelling.looks import read_look, write_look
from model_compression.labelling.people import read_people
from model_compression.labelling.recipe import Recipe
from model_compression.labelling.views import VIEWS
from model_compression.labels import write

Seen = tuple[Frame, tuple[int, int], dict[str, Objects]]
"""A frame, its width and height, and the possible objects on it by group."""


class Worker:
    """Sees the possible objects of frames, and labels these."""

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        out: Path,
        calibrations: Mapping[str, Calibration],
        held_out: HeldOut,
    ) -> None:
        """Remember what all frames need.

        Args:
            recipe: what to do.
            data: folder of images and weights.
            out: folder of labels, with `looks` in it.
            calibrations: by group; needed to label.
            held_out: what no frame to label may be nearly.
        """
        self._recipe, self._data, self._out = recipe, data, out
        self._calibrations, self._held_out = calibrations, held_out
        self._sets = {one.name: one for one in recipe.sets}

    @cached_property
    def _detectors(self) -> dict[str, Detector]:
        files = {one.name: (one.kind, self._data / one.weights) for one in self._recipe.detectors}
        return {name: KINDS[kind](path, 1) for name, (kind, path) in files.items()}

    def see(self, frame: Frame) -> Seen:
        """Look at a frame with all voices, or read what they saw before."""
        picture = frame.pixels(self._data)
        heard = []
        images = self._sets.get(frame.set_name)
        for voice in self._recipe.voices:
            if images and voice.view not in images.views:
                heard.append(Boxes.none())
                continue
            path = self._out / "looks" / str(voice) / frame.set_name / f"{frame.name}.npz"
            if not path.exists():
                write_look(VIEWS[voice.view](self._detectors[voice.detector], picture), path)
            heard.append(read_look(path))
        size_px = picture.shape[1], picture.shape[0]
        return frame, size_px, fuse(heard, self._recipe.by_voice(), size_px)

    def label(self, frame: Frame) -> bool:
        """Write the labels of a frame; say whether it may be learned from at all."""
        if self._held_out.has(frame.pixels(self._data)):
            frame.file(self._out).unlink(missing_ok=True)  # of a time when it was not held back
            return False
        _, size_px, objects = self.see(frame)
        found = {
            group: probable(one, self._calibrations[group], size_px)
            for group, one in objects.items()
        }
        if self._recipe.kinds_by:
            self._vote(frame, self._recipe.kinds_by, found)
        people = read_people(self._data, frame, size_px)
        images = self._sets[frame.set_name]
        write(decide(frame, size_px, found, people, images, self._recipe), frame.file(self._out))
        return True

    def _vote(self, frame: Frame, voter: str, found: Mapping[str, Probable]) -> None:
        """Let a detector look at crops of objects whose kind is unsure."""
        votes = Votes(self._out / "looks" / "crops" / frame.set_name / f"{frame.name}.npz")
        picture = frame.pixels(self._data)
        for group, one in found.items():
            for row in np.flatnonzero(one.probabilities >= self._recipe.taught[group]):
                if not is_sure(group, one.kinds[row]):
                    box = one.corners[row]
                    ask = partial(vote, self._detectors[voter], picture, box)
                    one.kinds[row] += votes.of(box, ask)
        votes.write()
