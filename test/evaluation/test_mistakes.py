"""Each kind of mistake on a picture made for it, and pycocotools' own count of right and wrong."""

from pathlib import Path

import numpy as np
import pytest
from drives import write_labels
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from perception_nodes.cli.app import app
from perception_nodes.evaluation.labels import LabelledImage
from perception_nodes.evaluation.matching import ALL_HEIGHTS, Objects, match
from perception_nodes.evaluation.mistakes import MISTAKES, NOTHING, BoxKind, Examined, judge
from perception_nodes.report.precision_recall import precision_recall

CAR, BUS = 0, 1
IMAGE = LabelledImage.without_objects(Path("one.png"))


def objects(*items, crowd=False):
    """Objects from x, y, width, height, class and score."""
    rows = np.array(items, float).reshape(-1, 6)
    boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
    return Objects(boxes, rows[:, 4].astype(int), rows[:, 3], rows[:, 5], np.full(len(rows), crowd))


def judged(truth, found):
    return judge(IMAGE, (100, 100), truth, found)


LABELLED = objects((10, 10, 20, 20, CAR, 1))


@pytest.mark.parametrize(
    ("box", "kind", "missed"),
    [
        ((10, 10, 20, 20, CAR, 0.9), BoxKind.RIGHT, False),
        ((10, 12, 20, 20, CAR, 0.9), BoxKind.RIGHT, False),
        ((10, 10, 20, 20, BUS, 0.9), BoxKind.OTHER_CLASS, True),
        ((10, 20, 20, 20, CAR, 0.9), BoxKind.MISPLACED, True),  # IoU 1/3
        ((10, 20, 20, 20, BUS, 0.9), BoxKind.NOTHING, True),
        ((60, 60, 20, 20, CAR, 0.9), BoxKind.NOTHING, True),
    ],
)
def test_what_a_box_is(box, kind, missed):
    one = judged(LABELLED, objects(box))
    assert one.kinds == [kind]
    assert one.missed.tolist() == [missed]
    assert one.mistakes == (kind in MISTAKES) + missed
    assert (one.objects[0] == 0) == (kind is not BoxKind.NOTHING)


def test_the_second_box_on_an_object_is_one_too_many():
    one = judged(LABELLED, objects((10, 11, 20, 20, CAR, 0.9), (10, 10, 20, 20, CAR, 0.8)))
    assert one.kinds == [BoxKind.RIGHT, BoxKind.TWICE]
    assert not one.missed.any()


def test_what_does_not_count_is_neither_right_nor_missed():
    part = objects((12, 12, 5, 5, CAR, 0.9))
    one = judged(objects((10, 10, 20, 20, CAR, 1), crowd=True), part)
    assert one.kinds == [BoxKind.IGNORED]
    assert one.mistakes == 0


def test_sums_over_images():
    images = [
        judged(LABELLED, objects((10, 10, 20, 20, BUS, 0.9))),
        judged(LABELLED, objects((10, 10, 20, 20, CAR, 0.9))),
        judged(objects((10, 10, 20, 20, BUS, 1)), objects()),
    ]
    examined = Examined("set", ("car", "bus"), images)
    counts = examined.counts()
    assert (counts["car"]["labelled"], counts["car"]["missed"], counts["car"]["right"]) == (2, 1, 1)
    assert (counts["bus"]["labelled"], counts["bus"]["missed"]) == (1, 1)
    assert counts["bus"][BoxKind.OTHER_CLASS.value] == 1
    assert examined.confusions() == [["car", 1, 1, 0], ["bus", 0, 0, 1], [NOTHING, 0, 0, 0]]


def test_each_labelled_object_is_in_one_cell_of_its_row():
    images = [
        judged(LABELLED, objects((10, 10, 20, 20, BUS, 0.9))),
        judged(LABELLED, objects((10, 10, 20, 20, CAR, 0.9), (60, 60, 9, 9, BUS, 0.8))),
        judged(LABELLED, objects()),
    ]
    rows = Examined("set", ("car", "bus"), images).confusions()
    assert rows == [["car", 1, 1, 1], ["bus", 0, 0, 0], [NOTHING, 0, 1, 0]]


def test_a_curve_has_the_precision_at_each_recall():
    right, wrong = (10, 10, 20, 20, CAR), (60, 60, 20, 20, CAR)
    images = [judged(LABELLED, objects((*right, 0.9)))] * 5
    images += [judged(LABELLED, objects((*right, 0.5), (*wrong, 0.4)))] * 4
    images += [judged(LABELLED, objects((*wrong, 0.7)))]
    chart = precision_recall(Examined("set", ("car", "bus"), images).reported())
    assert [one["name"] for one in chart.series] == ["car (10)"]
    ((recall, precision),) = chart.tables
    assert recall == [n / 10 for n in range(1, 10)]
    assert precision == [1.0] * 5 + [0.8571, 0.875, 0.8889, 0.9]


place, size = st.integers(0, 12), st.integers(2, 9)
boxes = st.tuples(place, place, size, size, st.sampled_from([CAR, BUS]))
scores = st.lists(st.integers(1, 10**6), min_size=6, max_size=6, unique=True)


@given(st.lists(boxes, max_size=6), st.lists(boxes, max_size=6), scores)
def test_right_and_wrong_are_those_of_coco(labelled, reported, ranks):
    truth = objects(*((*box, 1) for box in labelled))
    ranked = sorted(ranks[: len(reported)], reverse=True)
    found = objects(*((*box, rank / 10**6) for box, rank in zip(reported, ranked, strict=True)))
    one = judged(truth, found)
    coco = match([truth], [found], 2)[ALL_HEIGHTS]
    for label in (CAR, BUS):
        kinds = [k for k, known in zip(one.kinds, found.classes, strict=True) if known == label]
        right, wrong, count = coco[label].counts(level=0)
        assert kinds.count(BoxKind.RIGHT) == right
        assert sum(kind in MISTAKES for kind in kinds) == wrong
        assert int(one.missed[truth.classes == label].sum()) == count - right


def test_the_page_shows_frames_and_counts(root, tmp_path):
    lines = [f"0 {x} 0.5 0.2 0.2" for x in (0.3, 0.6)]
    labels = {str(number): lines[:number] for number in range(3)}
    data = write_labels(tmp_path / "set", labels, size=(160, 90))
    page = tmp_path / "page.html"
    command = ["model", "card", str(root / "models/open-n"), "--data", str(data), "--frames", "0"]
    result = CliRunner().invoke(app, [*command, "--pictures", "2", "--out", str(page)])
    assert result.exit_code == 0, result.output
    text, _, worst = page.read_text().partition("The worst frames")
    assert ">all</td>" + "".join(f'<td class="number">{n}</td>' for n in (3, 0, 3)) in text
    assert worst.count("<figure>") == 2
    assert worst.index("2.png") < worst.index("1.png")
    assert "<title>car, missed</title>" in worst
    assert "classes that the set does not label are left out: person, bicycle" in text
