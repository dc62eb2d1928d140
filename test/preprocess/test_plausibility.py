"""Pictures that no camera that sees the road can have sent, and those that it can."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception_nodes.core.frame import FrameHeader, ImageView
from perception_nodes.preprocess.cpu import Preprocessor
from perception_nodes.preprocess.plausibility import HELD_NS, LEARNED_NS, LOOK_NS, PictureJudge

DATA = Path(os.environ.get("PERCEPTION_DATA", "nowhere"))
WIDTH, HEIGHT, GREY = 1280, 720, 114
DRIVES = ("open/austin_night/images/train", "kitti_2011_09_26/image_02", "bdd100k/images")


def dark(picture):
    return picture // 32


def blinded(picture):
    return cv2.add(picture, np.full_like(picture, 230))


def blurred(picture):
    return cv2.GaussianBlur(picture, (0, 0), 3 * picture.shape[1] / 416)


def half_covered(picture):
    covered = picture.copy()
    covered[:, picture.shape[1] // 2 :] = 30
    return covered


FAULTS = {dark: "dark", blinded: "blinded", blurred: "blurred", half_covered: "covered"}


def road(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture with small things in all of its parts, another one for each number."""
    random = np.random.default_rng(number % 7)
    cells = random.integers(20, 200, (height // 8, width // 8, 3)).astype(np.uint8)
    return cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)


class Watched:
    """A camera whose pictures are judged."""

    def __init__(self, resize: str = "letterbox") -> None:
        self.judge, self.now_ns = PictureJudge(GREY), 10**12
        self._preprocessor = Preprocessor(416, 256, undistort=False, resize=resize)

    def show(self, pictures, for_ns: int) -> float | None:
        """Show pictures in turn; returns after how many seconds there was trouble."""
        begin_ns, frame = self.now_ns, 0
        while self.now_ns < begin_ns + for_ns:
            self.now_ns += LOOK_NS
            header, pixels = FrameHeader(), np.empty((256, 416, 3), np.uint8)
            image = ImageView.of_pixels(np.ascontiguousarray(pictures[frame % len(pictures)]))
            self._preprocessor.write(image, pixels, header)
            header.ingested_ns, frame = self.now_ns, frame + 1
            self.judge.look(header, pixels)
            if self.judge.trouble:
                return (self.now_ns - begin_ns) / 1e9
        return None


ROAD = [road(number) for number in range(7)]


@pytest.mark.parametrize("fault", FAULTS, ids=FAULTS.values())
def test_each_fault_is_told_within_five_seconds_and_ends_with_its_cause(fault):
    camera = Watched()
    assert camera.show(ROAD, LEARNED_NS + 10**9) is None
    assert camera.show([fault(one) for one in ROAD], HELD_NS - LOOK_NS) is None
    assert camera.show([fault(one) for one in ROAD], 2 * 10**9) is not None
    assert FAULTS[fault] in camera.judge.trouble
    assert camera.show(ROAD[:1], 1) is None


def test_a_lens_cap_that_was_never_taken_off_is_told():
    camera = Watched()
    assert camera.show([dark(one) for one in ROAD], HELD_NS) is None
    assert camera.show([dark(one) for one in ROAD], 10**9) is not None


def test_test_pictures_and_small_ones_are_not_called_blurred():
    smooth = [cv2.resize(road(n, 320, 240), (WIDTH, HEIGHT)) for n in range(3)]
    assert Watched().show([blurred(one) for one in smooth], 3 * LEARNED_NS) is None
    small = Watched()
    assert small.show([road(n, 320, 240) for n in range(3)], 2 * LEARNED_NS) is None
    assert small.show([blurred(road(n, 320, 240)) for n in range(3)], 2 * HELD_NS) is None


def test_the_open_sky_and_a_tunnel_cover_nothing():
    camera, sky = Watched(), [one.copy() for one in ROAD]
    for one in sky:
        one[: HEIGHT // 2] = 220
    tunnel = [one // 3 + 38 for one in ROAD]  # its walls are darker still
    for one in tunnel:
        one[:, : WIDTH // 2] = 38 + one[:, : WIDTH // 2] // 4
    assert camera.show(ROAD, 2 * LEARNED_NS) is None
    assert camera.show(sky, 2 * HELD_NS) is None
    assert camera.show(tunnel, 2 * HELD_NS) is None


def test_borders_are_no_part_of_the_picture():
    wide = [one[: HEIGHT // 4] for one in ROAD]
    for resize in ("letterbox", "top-left", "stretch"):
        camera = Watched(resize)
        assert camera.show(wide, 2 * LEARNED_NS) is None
        assert camera.show([dark(one) for one in wide], 2 * HELD_NS) is not None


@pytest.mark.parametrize("drive", DRIVES)
def test_roads_by_day_and_night_are_plausible_until_something_happens(drive):
    if not (files := sorted((DATA / drive).glob("*.*"))[:120]):
        pytest.skip(f"{drive} is not in $PERCEPTION_DATA ({DATA})")
    pictures = [cv2.resize(cv2.imread(str(file)), (WIDTH, HEIGHT)) for file in files]
    camera = Watched()
    assert camera.show(pictures, 3 * LEARNED_NS) is None, camera.judge.trouble
    for fault in (dark, blurred, half_covered):
        assert camera.show([fault(one) for one in pictures], 3 * HELD_NS) is not None, fault
        assert camera.show(pictures, LEARNED_NS) is None, camera.judge.trouble
