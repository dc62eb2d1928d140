import numpy as np
import pytest
from made_detections import detected

from perception_nodes.core.frame import MAX_DETECTIONS, Detections, FrameHeader
from perception_nodes.core.geometry import Letterbox
from perception_nodes.core.merging import merge, merge_settings, uncut

INPUT, SOURCE = (416, 256), (1242, 375)
SETTINGS = merge_settings(["person", "car", "bus"])
PERSON, CAR, BUS = range(3)


def found(*objects: tuple[int, float, tuple[int, int, int, int]]) -> Detections:
    classes, scores, boxes = zip(*objects, strict=True) if objects else ((), (), ())
    return detected(boxes, scores, classes)


def joined(whole: Detections, look: Detections) -> list[tuple[int, float, tuple[int, ...]]]:
    merged = merge(whole, [look], INPUT, SETTINGS)
    assert (np.diff(merged.scores) <= 0).all()
    rows = zip(merged.classes, merged.scores, merged.boxes, strict=True)
    return [(int(c), round(float(s), 3), tuple(map(int, b))) for c, s, b in rows]


def test_new_object_of_a_look_is_added() -> None:
    near, far = (CAR, 0.9, (10, 100, 90, 160)), (PERSON, 0.5, (600, 150, 606, 166))
    assert joined(found(near), found(far)) == [near, far]


def test_object_at_two_scales_and_of_two_classes_of_a_kind_is_one() -> None:
    coarse, fine = (CAR, 0.4, (600, 150, 640, 180)), (BUS, 0.8, (602, 151, 641, 180))
    assert joined(found(coarse), found(fine)) == [fine]
    assert joined(found((CAR, 0.9, coarse[2])), found(fine)) == [(CAR, 0.9, coarse[2])]


def test_object_of_another_kind_is_none_at_two_scales() -> None:
    car, person = (CAR, 0.8, (600, 150, 640, 180)), (PERSON, 0.6, (600, 150, 640, 180))
    assert joined(found(car), found(person)) == [car, person]


LEFT, RIGHT, ABOVE, BELOW = EDGES = [
    (0, 90, 30, 120),
    (390, 90, 416, 120),
    (100, 1, 120, 30),
    (100, 230, 130, 256),
]
"""Boxes that end at an edge of the input."""


@pytest.mark.parametrize(
    ("region", "kept"),
    [
        ((400, 60), []),
        ((0, 119), [LEFT, BELOW]),
        ((824, 116), [RIGHT, BELOW]),  # at multiples of four: it may end before the source
        ((0, 0), [LEFT, ABOVE]),
        (None, EDGES),
    ],
)
def test_an_object_is_cut_by_borders_of_its_region_that_are_none_of_the_source(region, kept):
    box = Letterbox.fit(*SOURCE, *INPUT)
    header = FrameHeader(source_width=SOURCE[0], source_height=SOURCE[1], width=416, height=256)
    header.scale_x, header.scale_y = (1, 1) if region else (box.scale_x, box.scale_y)
    header.pad_x, header.pad_y = np.negative(region) if region else (box.pad_x, box.pad_y)
    inside = 100, 90, 120, 120
    look = uncut(found(*((CAR, 0.9, one) for one in (*EDGES, inside))), header)
    assert look.boxes.tolist() == [list(one) for one in (*kept, inside)]
    assert len(look) == len(look.classes) == len(kept) + 1


def test_no_second_box_on_a_large_vehicle() -> None:
    bus = (BUS, 0.3, (500, 80, 700, 300))
    wheel, person = (CAR, 0.9, (510, 200, 600, 290)), (PERSON, 0.6, (510, 200, 530, 290))
    assert joined(found(bus), found(wheel, person)) == [person, bus]


def test_boxes_of_one_look_are_all_kept() -> None:
    two = (CAR, 0.9, (600, 150, 640, 180)), (BUS, 0.8, (602, 151, 641, 180))
    assert joined(found(*two), found()) == list(two)
    assert joined(found(), found(*two)) == list(two)


def test_more_objects_than_there_is_room_for() -> None:
    whole = found(*((PERSON, 0.5, (4 * i, 0, 4 * i + 3, 9)) for i in range(MAX_DETECTIONS)))
    merged = merge(whole, [found((CAR, 0.9, (600, 150, 640, 180)))], INPUT, SETTINGS)
    assert len(merged) == MAX_DETECTIONS and merged.more and merged.classes[0] == CAR
