"""What people are told of failed frames."""

from hypothesis import given
from hypothesis import strategies as st
from records import FAILED, OK, outcome

from perception_nodes.watchdog.failures import PERIOD_NS, Failures

START_NS = 5 * PERIOD_NS


def failed(sequence, reason=b"cut off"):
    report = outcome(sequence, status=FAILED)
    report.reason = reason
    return report


def test_the_first_failure_is_told_at_once_and_uncut():
    reason = b"encoding 'x' is not supported; known are " + b"bgr8, " * 70
    told = Failures().update([outcome(0), failed(1, reason)], START_NS)
    assert told == f"frame 1 FAILED: {reason.decode()}"


def test_the_last_ones_are_told_even_if_no_more_follow():
    failures = Failures()
    failures.update([failed(0)], START_NS)
    assert failures.update([failed(1), failed(2)], START_NS + 1) == ""
    assert failures.update([outcome(3, status=OK)], START_NS + PERIOD_NS - 1) == ""
    told = failures.update([], START_NS + PERIOD_NS)
    assert told == "frame 2 FAILED: cut off (1 more FAILED before it)"
    assert failures.update([], START_NS + 9 * PERIOD_NS) == ""


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, PERIOD_NS // 2)), max_size=60))
def test_each_failure_is_counted_once_and_lines_are_a_period_apart(steps):
    failures, now_ns, counted, told_ns = Failures(), START_NS, 0, []
    for count, wait_ns in [*steps, (0, PERIOD_NS)]:
        now_ns += wait_ns
        if told := failures.update([failed(n) for n in range(count)], now_ns):
            told_ns.append(now_ns)
            counted += 1 + (int(told.partition("(")[2].split()[0]) if "(" in told else 0)
    assert counted == sum(count for count, _ in steps)
    assert all(b - a >= PERIOD_NS for a, b in zip(told_ns, told_ns[1:], strict=False))
