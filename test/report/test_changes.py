"""Which differences between two runs of a drive are changes."""

import pytest

from perception_nodes.report.changes import Comparison, Tolerance
from perception_nodes.report.recording import DetectedObject

THRESHOLD = 0.25
SURE, NEAR = 0.9, 0.3


def objects(count: int, score: float) -> list[DetectedObject]:
    return [DetectedObject("car", score, (20.0 * x, 0.0, 20.0 * x + 10, 9.0)) for x in range(count)]


def compared(expected: list[list[DetectedObject]], found: list[list[DetectedObject]]) -> Comparison:
    """One frame a second."""
    frames = {(second * 10**9, 0): one for second, one in enumerate(expected)}
    comparison = Comparison(frames, THRESHOLD, Tolerance())
    for second, one in enumerate(found):
        comparison.frame(second, second * 10**9, one)
    comparison.finish()
    return comparison


@pytest.mark.parametrize(
    ("expected", "found", "changes", "doubtful"),
    [
        # Rounding may take up to half of the objects near the threshold, or five.
        (objects(20, NEAR), objects(10, NEAR), 0, 10),
        (objects(20, NEAR), objects(9, NEAR), 11, 0),
        (objects(1, SURE), objects(1, SURE) + objects(6, NEAR)[1:], 0, 5),
        (objects(1, SURE), objects(1, SURE) + objects(7, NEAR)[1:], 6, 0),
        (objects(2, NEAR), objects(1, NEAR), 0, 1),
        # It does not take all that there is.
        (objects(2, NEAR), [], 2, 0),
        ([], objects(2, NEAR), 0, 2),
        (objects(3, SURE), objects(2, SURE), 1, 0),
    ],
)
def test_objects_near_the_threshold_are_changes_where_they_are_many(
    expected, found, changes, doubtful
) -> None:
    facts = compared([expected], [found]).as_json()
    assert (len(facts["changes"]), facts["doubtful"]) == (changes, doubtful)
    assert facts["expected_objects"] == len(expected)


def test_a_missing_frame_has_its_number_in_the_golden() -> None:
    frames = {(second * 10**9, 0): objects(1, SURE) for second in range(6)}
    comparison = Comparison(frames, THRESHOLD, Tolerance())
    for index, second in enumerate((0, 1, 3, 4)):
        comparison.frame(index, second * 10**9, [] if index == 2 else objects(1, SURE))
    comparison.finish()
    begins = [line.partition("):")[0] for line in comparison.lines()]
    assert begins == ["frame 2 (3.00 s", "frame 2 (2.00 s", "frame 5 (5.00 s"]
    assert comparison.as_json()["frames_changed"] == 3
