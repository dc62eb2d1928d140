"""Label files come back as they were written, and nothing else is taken for one."""

import json

import numpy as np
import pytest

from model_compression.errors import CompressionError
from model_compression.labels import CLASSES, Labels, read, read_all, write


def labels_of(most_objects: int = 2) -> Labels:
    masks = np.zeros((1, len(CLASSES)), bool)
    masks[0, [0, 6]] = True
    return Labels(
        image="set/images/a.png",
        frame=None,
        set_name="set",
        size_px=(64, 48),
        boxes=np.array([[1.5, 2, 30, 40], [0, 0, 8, 16]], np.float32)[:most_objects],
        classes=np.array([2, 7])[:most_objects],
        scores=np.array([0.75, 1], np.float32)[:most_objects],
        ignored_boxes=np.array([[0, 0, 64, 48]], np.float32)[:most_objects],
        ignored_classes=masks[:most_objects],
    )


@pytest.mark.parametrize("most_objects", [0, 2])
def test_labels_come_back_as_written(tmp_path, most_objects):
    labels = labels_of(most_objects)
    write(labels, tmp_path / "set" / "a.json")
    (found,) = read_all(tmp_path)
    for name, value in vars(labels).items():
        np.testing.assert_array_equal(getattr(found, name), value)


@pytest.mark.parametrize("change", [{"objects": [{"class": "tram", "box": [0, 0, 1, 1]}]}, None])
def test_what_is_no_label_file_is_named(tmp_path, change):
    path = tmp_path / "a.json"
    write(labels_of(), path)
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | change) if change else text[:-5])
    with pytest.raises(CompressionError, match=r"a\.json is no label file"):
        read(path)
