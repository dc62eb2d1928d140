"""Calibration files."""

import pytest
import yaml

from perception_nodes.preprocess.calibration import read_calibration
from perception_nodes.preprocess.lens import UnknownLens

EXAMPLE = "calibration/camera/example_wide_1920x1280.yaml"


def test_the_example_is_read(root):
    info = read_calibration(root / EXAMPLE)
    assert (info.width, info.height, info.model) == (1920, 1280, "plumb_bob")
    assert info.matrix[0] == 1250.0
    assert info.distortion[0] == -0.18


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"camera_matrix": None}, "subscriptable"),
        ({"camera_matrix": {"data": [1.0]}}, "has 1 values, not 9"),
        ({"image_width": "wide"}, "invalid literal"),
        ({"distortion_model": "kaleidoscope"}, "'kaleidoscope' is not supported"),
    ],
)
def test_an_unusable_file_is_refused(root, tmp_path, change, text):
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load((root / EXAMPLE).read_text()), **change}))
    with pytest.raises(UnknownLens, match=text):
        read_calibration(path)


def test_missing_keys_and_files_are_named(tmp_path):
    path = tmp_path / "camera.yaml"
    path.write_text("image_width: 5")
    with pytest.raises(UnknownLens, match="'image_height' is missing"):
        read_calibration(path)
    with pytest.raises(UnknownLens, match="none.yaml"):
        read_calibration(tmp_path / "none.yaml")
