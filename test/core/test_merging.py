import numpy as np

from perception_nodes.core.frame import MAX_DETECTIONS, Detections
from perception_nodes.core.merging import merge, merge_settings

SIZES = (416, 256), (1242, 375)
REGION = 400, 60
SETTINGS = merge_settings(["person", "car", "bus"])
PERSON, CAR, BUS = range(3)


def found(*objects: tuple[int, float, tuple[int, int, int, int]]) -> Detections:
    classes, scores, boxes = zip(*objects, strict=True) if objects else ((), (), ())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int64),
    )


def joined(whole: Detections, look: Detections) -> list[tuple[int, float, tuple[int, ...]]]:
    merged = merge(whole, [(REGION, look)], *SIZES, SETTINGS)
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


def test_what_the_border_of_a_look_cuts_is_no_object_of_it() -> None:
    across, down = [(400, 150, 430, 180), (790, 150, 816, 180)], [(500, 61, 520, 90)]
    for cut in (*across, *down, (500, 290, 530, 316)):
        assert joined(found(), found((CAR, 0.9, cut))) == []


def test_border_of_the_source_cuts_no_object() -> None:
    left = found((CAR, 0.9, (0, 119, 30, 150)), (CAR, 0.8, (0, 350, 30, 375)))
    merged = merge(found(), [((0, 119), left)], *SIZES, SETTINGS)
    assert merged.boxes[:, 1].tolist() == [350]
    last = found((CAR, 0.9, (1200, 150, 1242, 180)))
    merged = merge(found(), [((824, 116), last)], *SIZES, SETTINGS)
    assert len(merged) == 1, "regions begin at multiples of four, and may end before the source"


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
    merged = merge(whole, [(REGION, found((CAR, 0.9, (600, 150, 640, 180))))], *SIZES, SETTINGS)
    assert len(merged) == MAX_DETECTIONS and merged.more and merged.classes[0] == CAR
