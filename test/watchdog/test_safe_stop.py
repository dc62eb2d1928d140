"""When the vehicle is asked to stop, and when no longer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.watchdog.safe_stop import SafeStop

BAD = ["front: no detections for 500 ms"]


@pytest.mark.parametrize("latched", [False, True])
def test_it_is_requested_from_the_start(latched):
    assert SafeStop(latched).requested
    assert SafeStop(latched).release() == "nothing has been detected yet"


def test_it_ends_with_its_cause():
    stop = SafeStop(latched=False)
    assert [stop.update(causes) for causes in ([], BAD, [])] == [False, True, False]


@given(st.lists(st.sampled_from(["bad", "good", "release"])))
def test_a_latched_request_never_ends_by_itself(events):
    stop = SafeStop(latched=True)
    stop.update([])
    bad, requested = False, True
    for event in events:
        if event == "release":
            assert stop.release() == (BAD[0] if bad else "")
            requested = requested and bad  # a release while there is a cause does not count
        else:
            bad = event == "bad"
            stop.update(BAD if bad else [])
            requested = requested or bad
        assert stop.requested == requested
