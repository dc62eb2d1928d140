"""The facts of a run."""

import json
import math
from fractions import Fraction
from statistics import quantiles
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perception_nodes.core.frame import STAMPS, FrameRecord, FrameStatus
from perception_nodes.core.statistics import (
    latency_percentiles,
    mean_difference,
    percentiles,
    summarize,
)

MS = 1_000_000


def report(status, stages_ms=(1, 1, 5, 0.5, 0.5), reached=6, detections=0, copies=1, reason=""):
    """A report whose frame got past `reached` of the six stamps."""
    stamps = 10**9 + np.concatenate([[0], np.cumsum(stages_ms)]) * MS
    values = [int(stamp) if i < reached else 0 for i, stamp in enumerate(stamps)]
    return SimpleNamespace(
        status=status,
        model="open-n" if status == FrameStatus.OK else "open-xs",
        detections=detections,
        copies=copies,
        reason=reason,
        **dict(zip(STAMPS, values, strict=True)),
    )


def test_nothing_arrived_gives_nulls_and_is_json():
    summary = summarize([])
    assert summary["frames_in"] == 0
    assert summary["latency_ms"] == {"p50": None, "p99": None, "p99_9": None, "max": None}
    assert summary["miss_rate"] is None
    assert summary["copies_per_frame"] is None
    json.dumps(summary, allow_nan=False)


def test_every_frame_is_counted_once():
    summary = summarize([report(status) for status in FrameStatus for _ in range(status + 1)])
    assert summary["status"] == {status.name: status + 1 for status in FrameStatus}
    assert sum(summary["status"].values()) == summary["frames_in"] == 21
    assert summary["models"] == {"open-xs": 7, "open-n": 1}
    in_time = 1 + (FrameStatus.DEGRADED + 1)
    assert summary["miss_rate"] == pytest.approx((21 - in_time) / 21, abs=1e-6)


def test_an_unpublished_frame_is_slower_than_all_others_and_has_the_stages_that_it_passed():
    reports = [
        report(FrameStatus.OK, detections=3),
        report(FrameStatus.LATE, stages_ms=(1, 1, 9, 1, 1), detections=2),
        report(FrameStatus.SKIPPED_LATE, stages_ms=(7, 2, 0, 0, 0), reached=3),
    ]
    summary = summarize(reports)
    assert summary["latency_ms"] == {
        "p50": pytest.approx(13), "p99": None, "p99_9": None, "max": None,
    }  # fmt: skip
    assert summary["stages_ms"]["ingest"]["p50"] == pytest.approx(1)
    assert summary["stages_ms"]["ingest"]["p99"] > 6.8
    assert summary["stages_ms"]["inference"]["p50"] == pytest.approx(7)
    assert summary["detections"] == 5


def test_copies_are_averaged_over_preprocessed_frames():
    reports = [report(FrameStatus.OK, copies=1), report(FrameStatus.OK, copies=0)]
    reports.append(report(FrameStatus.FAILED, reached=2, copies=0, reason="x"))
    assert summarize(reports)["copies_per_frame"] == 0.5


def test_shared_memory_records_are_reports_too():
    summary = summarize([FrameRecord(status=FrameStatus.FAILED, reason=b"backend error")])
    assert summary["failures"] == {"backend error": 1}
    assert (summary["latency_ms"]["p50"], summary["copies_per_frame"]) == (None, None)
    json.dumps(summary, allow_nan=False)


def plain_percentile(values, rank):
    """Of the sorted values the one at `rank` percent of the way from the first to the last.

    Between two values, in proportion to the distance from each.
    """
    ordered = sorted(values)
    place = Fraction(str(rank)) / 100 * (len(ordered) - 1)
    below, above = math.floor(place), math.ceil(place)
    share = float(place - below)
    return ordered[below] * (1 - share) + ordered[above] * share


@given(
    values=st.lists(st.floats(0, 1e4), min_size=1, max_size=60),
    rank=st.sampled_from([0, 2.5, 25, 50, 90, 99, 99.9, 100]),
)
@example(values=[3.0], rank=99)
@example(values=[2.0, 1.0], rank=50)
def test_percentiles_are_those_of_their_definition(values, rank):
    found = percentiles(values, {"name": rank})
    assert found == {"name": pytest.approx(plain_percentile(values, rank), rel=1e-9, abs=1e-5)}


@given(
    came=st.lists(st.floats(0, 1e4), max_size=60),
    without=st.integers(0, 5),
    rank=st.sampled_from([0, 50, 90, 99, 99.9, 100]),
)
@example(came=[3.0] * 1000, without=1, rank=99.9)
def test_frames_that_never_came_are_slower_than_all_others(came, without, rank):
    slowest = [math.inf] * without
    place = Fraction(str(rank)) / 100 * (len(came) + without - 1)
    (found,) = latency_percentiles(came, {"name": rank}, without).values()
    if not came or sorted([*came, *slowest])[math.ceil(place)] == math.inf:
        assert found is None
    else:
        expected = plain_percentile([*came, *(1e4 for _ in slowest)], rank)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-5)


# Differences between runs


def plain_interval(values, weights, draws):
    """The interval by the book: each sample is a list of units, some of them several times."""
    differences = []
    units = len(values)
    drawn = np.random.default_rng(0).multinomial(units, [1 / units] * units, size=draws)
    for times in drawn.tolist():
        sample = [unit for unit in range(units) for _ in range(times[unit])]
        before, after = (
            sum(values[unit][run] * weights[unit][run] for unit in sample)
            / sum(weights[unit][run] for unit in sample)
            for run in (0, 1)
        )
        differences.append(after - before)
    fortieths = quantiles(differences, n=40, method="inclusive")
    return fortieths[0], fortieths[-1]


@given(st.integers(0, 2**31), st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_the_interval_of_a_difference_is_that_of_the_book(seed, units):
    random = np.random.default_rng(seed)
    values, weights = random.normal(size=(units, 2)), random.uniform(1, 900, (units, 2))
    low, high = mean_difference(values, weights, draws=50)
    assert (low, high) == pytest.approx(plain_interval(values, weights, 50))
    assert low <= high


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Of fleets of 40 drives, each as hard in both runs; the true difference is 1.2."""
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        values = random.normal(0, 5, (40, 1)) + random.normal([10, 11.2], 2, (40, 2))
        low, high = mean_difference(values, np.full((40, 2), 90.0), draws=400)
        covered += low <= 1.2 <= high
    assert 0.9 <= covered / 200 <= 0.98
