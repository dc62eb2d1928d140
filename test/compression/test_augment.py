"""Training images: what is scaled and moved stays where its label says."""

import numpy as np
import pytest

from model_compression.augment import place
from perception_nodes.core.geometry import PADDING_VALUE

BRIGHT = 255


@pytest.mark.parametrize("scale", [0.35, 0.65, 1.0, 1.6])
def test_an_object_is_where_its_label_says(scale):
    image = np.full((240, 320, 3), PADDING_VALUE, np.uint8)
    image[90:150, 110:190] = BRIGHT
    label = np.array([[0, 150 / 320, 120 / 240, 80 / 320, 60 / 240]], np.float32)
    rng = np.random.default_rng(0)
    tile_px = (round(320 * scale) + 40, round(240 * scale) + 30)
    off_px = []
    for _ in range(40):
        tile, (box,) = place(image, label, tile_px, scale, rng)
        weight = tile[..., 0].astype(float) - PADDING_VALUE
        rows, columns = np.indices(weight.shape) + 0.5  # from the edge, as labels count
        seen = [(weight * places).sum() / weight.sum() for places in (columns, rows)]
        off_px.append(seen - (box[1:3] + box[3:5]) / 2)
    assert np.abs(np.mean(off_px, axis=0)).max() < 0.05
