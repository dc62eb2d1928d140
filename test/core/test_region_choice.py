import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.core.frame import Detections
from perception_nodes.core.merging import ALIGNED_PX
from perception_nodes.core.region_choice import RegionChoice

INPUT = 416, 256


def detections(*boxes: tuple[float, float, float, float]) -> Detections:
    rows = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(rows, np.ones(len(rows), np.float32), np.zeros(len(rows), np.int64))


@given(
    st.integers(0, 3000),
    st.integers(0, 2200),
    st.floats(-0.1, 1.1),
    st.integers(1, 4),
    st.lists(st.lists(st.tuples(*[st.integers(0, 400)] * 4), max_size=5), max_size=6),
)
def test_band_is_seen_within_the_bound(more_across, more_down, share, looks, frames):
    source = 521 + more_across, 200 + more_down
    horizon = source[1] * share
    policy = RegionChoice(source, INPUT, horizon, learning=0)
    seen = np.empty(0)
    low, high = np.clip([horizon - INPUT[1] / 4, horizon + INPUT[1] / 4], 0, source[1])
    bound = -(-2 * len(policy._sweep) // looks)  # every other look is part of the sweep
    for number in range(3 * bound):
        seen = seen if number % bound else np.zeros(source[0])
        regions = policy.choose(looks)
        assert len(regions) == len(set(regions)) <= looks
        for x, y in regions:
            for begin, own, length in zip((x, y), INPUT, source, strict=True):
                if length < own:
                    assert begin == -((own - length) // 2)
                else:
                    assert 0 <= begin <= length - own
                    assert begin % ALIGNED_PX == 0
            if y <= low and high < y + INPUT[1] + ALIGNED_PX:
                seen[max(x, 0) : x + INPUT[0]] = 1
        boxes = frames[number % len(frames)] if frames else []
        found = detections(*((x, y, x + w % 30, y + h % 30) for x, y, w, h in boxes))
        policy.seen(regions, found)
        assert (number + 1) % bound or seen[: source[0] - ALIGNED_PX + 1].all()


def test_region_that_never_comes_does_not_keep_others_from_their_turn() -> None:
    policy = RegionChoice((1920, 1080), INPUT)
    (refused,), shown = policy.choose(1), set()
    for _ in range(8 * len(policy._sweep)):
        (region,) = policy.choose(1)
        shown.add(region[0])
        policy.seen([] if region == refused else [region], detections())
    assert shown >= set(policy._sweep)


def test_small_object_is_looked_at_in_every_second_look_and_a_while_after_it_is_gone() -> None:
    policy = RegionChoice((1920, 1080), INPUT)
    for frame in range(12):
        (region,) = policy.choose(1)
        if frame in (2, 4, 6):
            assert region[0] <= 1500 and region[0] + INPUT[0] >= 1520
            assert region[1] <= 800 and region[1] + INPUT[1] >= 820
        policy.seen([region], detections((1500, 800, 1520, 820)) if frame < 5 else detections())
    assert policy.choose(1)[0][1] + INPUT[1] < 800, "what is gone for good is not looked for"


def test_looks_of_a_frame_show_different_objects() -> None:
    policy = RegionChoice((1920, 1080), INPUT)
    policy.seen([], detections((100, 500, 120, 520), (1800, 500, 1820, 520)))
    lefts = sorted(left for left, _ in policy.choose(3)[::2])
    assert lefts[0] <= 100 and lefts[1] + INPUT[0] >= 1820


def test_horizon_is_learned_from_small_objects_and_begins_at_the_axis_of_the_lens() -> None:
    policy = RegionChoice((1920, 1080), INPUT, 300.0)
    assert abs(policy.choose(1)[0][1] + INPUT[1] / 2 - 300) < 32
    for _ in range(200):
        policy.seen([], detections((900, 790, 920, 810)))
    policy.seen([(0, 0)], detections())
    (sweep,) = policy.choose(1)
    assert abs(sweep[1] + INPUT[1] / 2 - 800) < 32


@pytest.mark.parametrize("source", [(416, 256), (500, 300), (416, 128)])
def test_frames_about_as_large_as_the_input_get_no_looks(source: tuple[int, int]) -> None:
    policy = RegionChoice(source, INPUT)
    policy.seen([], detections((10, 10, 20, 20)))
    assert policy.choose(3) == []
