"""Objects of rare classes are cut out of frames and put into others."""

import numpy as np
import pytest
from test_distillation import frame_of

from model_compression.distillation.pastes import HIDDEN, Pasting, cuts_of
from model_compression.labels import CLASSES

TRUCK = CLASSES.index("truck")


@pytest.mark.parametrize("seed", range(8))
def test_pasted_objects_are_known_and_what_they_cover_is_not(tmp_path, seed):
    rng = np.random.default_rng(seed)
    frame = frame_of(tmp_path, rng.integers(0, 255, (200, 300, 3), np.uint8), [60, 90, 110, 130])
    (tmp_path / "cut").mkdir()
    cut = frame_of(tmp_path / "cut", np.zeros((200, 300, 3), np.uint8), [40, 40, 140, 120])
    cut.labels.classes[:] = TRUCK
    cuts = cuts_of([frame, cut])
    assert {name: len(found) for name, found in cuts.items() if found} == {"truck": 1}
    image, seen = Pasting(frame, cuts, 1.0, rng).read()
    changed = (image != frame.read()[0]).any(2)
    for left, top, right, bottom in np.concatenate([seen.boxes, seen.ignored_boxes]).astype(int):
        changed[top:bottom, left:right] = False
    assert changed.mean() < 1 - HIDDEN, "what lies outside is of objects that others hide"
    assert (seen.classes == TRUCK).any() == (image != frame.read()[0]).any()
