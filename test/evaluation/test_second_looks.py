"""Second looks at single images, with a network that sees what we tell it."""

import numpy as np
import pytest
from made_detections import detected

from perception_nodes.core.frame import Detections
from perception_nodes.core.geometry import BoxesToSource
from perception_nodes.evaluation import detector
from perception_nodes.evaluation.detector import SecondLooks
from perception_nodes.networks.model import load_model

BUS, WHEEL, FAR = [300, 100, 420, 300], [310, 220, 360, 280], [150, 160, 158, 168]


def found(*boxes: list[int]) -> Detections:
    return detected(boxes, 0.5, 1)


class Detector:
    """Sees in each look a wheel of a bus, and what is far."""

    input_px = 416, 256

    def look(self, *_: object) -> Detections:
        return found(WHEEL, FAR)


@pytest.mark.parametrize(
    ("size", "whole", "added", "made", "second"),
    [((360, 640, 3), [BUS], [FAR], 2, [0, 0]), ((256, 416, 3), [BUS, WHEEL], [], 0, [1, 1])],
)
def test_looks_add_what_is_far_and_no_parts_of_what_is_near(size, whole, added, made, second):
    looks = SecondLooks(Detector(), ["person", "vehicle"], 2)
    both = looks.joined(np.zeros(size, np.uint8), [found(*whole)] * 2, [lambda seen: seen] * 2)
    assert [one.boxes.tolist() for one in both] == [whole + added] * 2
    assert (looks.made, looks.second_boxes.tolist()) == (made, second)
    assert f"{made} second looks; " in looks.note()


def test_a_region_is_shown_pixel_by_pixel_and_boxes_come_back_to_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (200, 640, 3), np.uint8)
    with detector.Detector(load_model("open-n"), "null", 1) as own:
        seen = own.look(image, (224, -28))
        assert (own._input[28:228] == image[:, 224:]).all() and (own._input[:28] == 114).all()
    box = BoxesToSource(seen.header, None)(np.array([[10, 38, 30, 48]], np.float32))
    assert box.tolist() == [[234, 10, 254, 20]]
