"""Which of a camera's numbered frames are new, and which are missing."""

from perception_nodes.nodes.frame_numbers import FrameNumbers


def test_the_first_frame_of_a_source_misses_nothing():
    assert list(FrameNumbers().missing_before(1, 100)) == []


def test_gaps_are_missing_in_each_source_by_itself():
    numbers = FrameNumbers()
    numbers.missing_before(1, 5)
    numbers.missing_before(2, 50)
    assert list(numbers.missing_before(1, 8)) == [6, 7]
    assert list(numbers.missing_before(2, 51)) == []


def test_numbers_that_begin_anew_miss_nothing():
    numbers = FrameNumbers()
    numbers.missing_before(1, 5)
    assert list(numbers.missing_before(1, 0)) == []


def test_what_a_predecessor_took_is_not_new_and_what_it_missed_is_missing():
    numbers = FrameNumbers()
    numbers.take_over(1, 5)
    assert numbers.missing_before(1, 5) is None
    assert list(numbers.missing_before(1, 8)) == [6, 7]
    assert list(numbers.missing_before(1, 3)) == [], "the camera was restarted"
