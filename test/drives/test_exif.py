"""Photographs that are stored as the camera was held, against Pillow."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from perception_nodes.core.frame import FrameHeader
from perception_nodes.drives.bag import open_drive
from perception_nodes.drives.exif import UPRIGHT, orientation
from perception_nodes.evaluation.labels import LabelledImage
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.transport.cdr_reader import read_compressed_image

TAG = 0x0112


def photograph(turned=None, order=">", kind="JPEG"):
    """A file whose four corners have four colours; 32x16 as stored."""
    picture = Image.new("RGB", (32, 16))
    for corner, colour in [
        ((0, 0), "red"),
        ((16, 0), "lime"),
        ((0, 8), "blue"),
        ((16, 8), "white"),
    ]:
        picture.paste(colour, (*corner, corner[0] + 16, corner[1] + 8))
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "the maker of the camera"
    if turned is not None:
        exif[TAG] = turned
    file = io.BytesIO()
    picture.save(file, kind, quality=100, subsampling=0, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("turned", range(1, 9))
def test_a_folder_shows_photographs_upright(tmp_path, turned, order, kind):
    file = photograph(turned, order, kind)
    assert orientation(file) == turned
    (tmp_path / "photo.jpg").write_bytes(file)
    with open_drive(tmp_path) as drive:
        (message,) = drive.frames()
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    expected = np.asarray(upright)[:, :, ::-1]
    shown, header = np.zeros(expected.shape, np.uint8), FrameHeader()
    view = read_compressed_image(message.data)
    Preprocessor(upright.width, upright.height, undistort=False).write(view, shown, header)
    assert (header.source_width, header.source_height) == upright.size
    assert np.abs(shown.astype(int) - expected).max() <= 3


def test_labels_are_for_the_photograph_that_a_folder_shows(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(photograph(6))
    image = LabelledImage.without_objects(tmp_path / "photo.jpg").pixels()
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "photo.jpg"))
    assert np.abs(image.astype(int) - np.asarray(upright)[:, :, ::-1]).max() <= 3


def test_fill_bytes_may_precede_a_marker():
    file = photograph(6)
    at = file.index(b"\xff\xe1")
    assert orientation(file[:at] + b"\xff\xff" + file[at:]) == 6


@pytest.mark.parametrize(
    "file",
    [photograph(), photograph(kind="PNG"), photograph(0), photograph(9), b"", b"\xff\xd8\xff"],
)
def test_a_file_that_does_not_say_is_upright(file):
    assert orientation(file) == UPRIGHT


@given(st.binary(max_size=20), st.integers(0, 120))
def test_damaged_files_raise_nothing(data, at):
    for file in (photograph(6), photograph(6, kind="PNG")):
        assert 1 <= orientation(file[:at] + data + file[at + len(data) :]) <= 8
        assert 1 <= orientation(file[:at]) <= 8
