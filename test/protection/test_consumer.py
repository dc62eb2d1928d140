"""The consumer: each fault on its own, and what holds whatever happens."""

import subprocess
import sys

import pytest
from cases import cases
from faults import BEGIN_NS, MS, TOPIC, calls, limits
from hypothesis import given
from hypothesis import strategies as st

from perception_nodes.core.health import HealthMode
from perception_nodes.protection.consumer import Consumer, Content, Instant, Limits, State
from perception_nodes.protection.profile import data_id, protect

NOMINAL, DEGRADED, UNSAFE = HealthMode.NOMINAL, HealthMode.DEGRADED, HealthMode.UNSAFE
PERIOD_MS = 33
USUAL = {Content.OBJECTS: b"objects", Content.HEALTH: bytes(13), Content.SAFE_STOP: b"\0\1\0\0\0"}


def at(milliseconds):
    ns = round(milliseconds * MS)
    return Instant(7 * 10**9 + ns, BEGIN_NS + ns)


def message(counter, sent_ms, data=b"objects", topic=TOPIC):
    """One with a deadline 5 ms after it was sent."""
    return protect(data, data_id(topic), counter % 2**32, at(sent_ms + 5).wall_ns)


class Stream:
    """A consumer that has got one message after the other for two seconds."""

    def __init__(self, content=Content.OBJECTS):
        self.consumer = Consumer(TOPIC, content)
        self.now_ms, self.counter = 0.0, 2**32 - 10
        self.well = USUAL[content]
        self.modes = [self.next().mode for _ in range(60)]

    def next(self, skip=0, data=None):
        self.now_ms += PERIOD_MS
        self.counter += 1 + skip
        return self.get(message(self.counter, self.now_ms, data or self.well))

    def get(self, got):
        return self.consumer.check(got, at(self.now_ms))


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_it_judges_the_table_of_cases(case):
    consumer = Consumer(TOPIC, case.content)
    assert [consumer.check(*call)[:2] for call in case.calls] == case.expected


def test_messages_in_order_and_in_time_are_ok_and_nominal_after_a_while():
    stream = Stream()
    assert stream.modes == [DEGRADED] * 31 + [NOMINAL] * 29
    assert stream.next(data=b"two cars") == (State.OK, NOMINAL, 0, 0, b"two cars", "")


def test_lost_messages_are_counted_and_a_few_are_tolerated():
    stream = Stream()
    verdict = stream.next(skip=2)
    assert verdict[:4] == (State.LOST, NOMINAL, 0, 2)
    assert verdict.message == b"objects"
    assert stream.next(skip=1)[:4] == (State.LOST, DEGRADED, 0, 1)
    assert [stream.next().mode for _ in range(40)] == [DEGRADED] * 29 + [NOMINAL] * 11


def test_a_late_message_is_not_used_and_is_no_loss():
    stream = Stream()
    stream.counter += 1
    sent_ms = stream.now_ms
    stream.now_ms += 15.0
    assert stream.get(message(stream.counter, sent_ms)).state is State.OK
    stream.counter += 1
    sent_ms = stream.now_ms
    stream.now_ms += 15.001
    verdict = stream.get(message(stream.counter, sent_ms))
    assert (verdict.state, verdict.message, verdict.silent_ms) == (State.LATE, None, 15)
    assert stream.next().state is State.OK


def test_a_wrong_message_is_never_used_and_degrades_at_once():
    for wrong, reason in (
        (message(0, 0), "CRC"),
        (message(0, 0, topic="/other"), "data id: of another topic"),
        (b"", "not a protected message"),
    ):
        stream = Stream()
        altered = wrong[:-1] + b"?" if reason == "CRC" else wrong
        verdict = stream.get(altered)
        assert verdict == (State.WRONG, DEGRADED, 0, 0, None, reason)
        assert stream.next().state is State.OK


@pytest.mark.parametrize(
    ("content", "sender", "ahead_ms", "reason"),
    [
        (Content.HEALTH, 0, 5, "another message inside"),
        (Content.OBJECTS, 0, 5000, "deadline far ahead: the clocks differ"),
        (Content.OBJECTS, 7, 5, "data id: of another sender"),
    ],
)
def test_the_reason_says_what_is_wrong(content, sender, ahead_ms, reason):
    stream = Stream(content)
    deadline_ns = at(stream.now_ms + ahead_ms).wall_ns
    wrong = protect(b"objects", data_id(TOPIC, sender), 60, deadline_ns)
    assert stream.get(wrong)[::5] == (State.WRONG, reason)


@given(st.sampled_from(Content).flatmap(lambda c: st.tuples(st.just(c), calls(c))), limits())
def test_whatever_happens(made, demanded):
    consumer = Consumer(TOPIC, made[0], demanded)
    used: list[bytes] = []
    usable_ns = None
    for got, now in made[1]:
        verdict = consumer.check(got, now)
        usable = verdict.state in (State.OK, State.LOST)
        assert (verdict.message is not None) == usable
        assert bool(verdict.reason) == (verdict.state is State.WRONG)
        if usable:
            usable_ns = now.monotonic_ns
            used.append(got)
        if got is None:
            assert verdict.state in (State.NOTHING_NEW, State.SILENT)
        if usable_ns is None or now.monotonic_ns - usable_ns > demanded.unsafe_after_ms * MS:
            assert verdict.mode is UNSAFE
        if verdict.state in (State.WRONG, State.SILENT):
            assert verdict.mode >= DEGRADED
        assert verdict.mode <= UNSAFE
    if len({now.wall_ns - now.monotonic_ns for _, now in made[1]}) == 1:  # no step of the clock
        assert len(set(used)) == len(used)


def test_it_needs_neither_ros_nor_numpy():
    code = (
        "import sys, perception_nodes.protection.consumer; "
        "sys.exit(bool({'rclpy', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_limits_that_cannot_be_held_are_refused():
    for tolerated in (-1, 8):
        with pytest.raises(ValueError, match=f"tolerated is {tolerated}, it must be 0 to 7"):
            Limits(tolerated=tolerated)
    with pytest.raises(ValueError, match="is 209, it must be at least transport_ms .* = 210"):
        Limits(unsafe_after_ms=209)
