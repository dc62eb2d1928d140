"""Random sequences of what can happen to messages on their way, and to their sender."""

from typing import NamedTuple

from hypothesis import strategies as st

from perception_nodes.protection.consumer import MS, Content, Instant, Limits
from perception_nodes.protection.profile import data_id, protect

TOPIC = "/perception/detections/protected"
BEGIN_NS = 1_790_000_000 * 1_000_000_000
PAYLOADS = {
    Content.OBJECTS: [b"", b"objects"],
    Content.HEALTH: [bytes(12) + bytes([mode]) for mode in range(5)] + [b"short"],
    Content.SAFE_STOP: [b"\0\1\0\0\0", b"\0\1\0\0\1", b"\0\1"],
}


class Call(NamedTuple):
    """One call of a consumer."""

    message: bytes | None
    now: Instant


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    transport_ms, ahead_ms = draw(st.integers(0, 50)), draw(st.integers(20, 300))
    return Limits(
        transport_ms=transport_ms,
        ahead_ms=ahead_ms,
        silent_after_ms=draw(st.integers(50, 300)),
        unsafe_after_ms=transport_ms + ahead_ms + draw(st.integers(0, 400)),
        tolerated=draw(st.integers(0, 7)),
        hold_ms=draw(st.integers(0, 1500)),
    )


@st.composite
def calls(draw: st.DrawFn, content: Content) -> list[Call]:
    """A sender's messages every few milliseconds, of which some suffer a fault."""
    wall_ns, monotonic_ns = BEGIN_NS, 5 * 10**9
    counter = draw(st.sampled_from([0, 1, 2**31 - 2, 2**31, 2**32 - 2, 2**32 - 1]))
    sender = 0
    sent: list[bytes] = []
    made: list[Call] = []
    for _ in range(draw(st.integers(1, 40))):
        waited_ns = draw(st.sampled_from([1, 10, 33, 33, 33, 100, 250, 251, 600, 1600])) * MS
        wall_ns, monotonic_ns = wall_ns + waited_ns, monotonic_ns + waited_ns
        what = draw(
            st.sampled_from(
                ["sent"] * 8
                + ["nothing", "lost", "repeated", "late", "altered", "cut", "other", "ahead"]
                + ["restarted", "anew", "clock", "earliest", "latest"]
            )
        )
        topic = "/perception/tracks/protected" if what == "other" else TOPIC
        deadline_ns = wall_ns + {"late": -60, "ahead": 400}.get(what, 5) * MS
        deadline_ns = {"earliest": -(2**63), "latest": 2**63 - 1}.get(what, deadline_ns)
        if what == "lost":
            counter += draw(st.integers(1, 12))
        elif what == "restarted":
            counter = draw(st.integers(0, 2**32 - 1))
        elif what == "anew":
            sender = draw(st.sampled_from([0, 1, 2**16 - 1]))
        elif what == "clock":
            wall_ns += draw(st.sampled_from([-1000, -20, 20, 1000])) * MS
        data, identity = draw(st.sampled_from(PAYLOADS[content])), data_id(topic, sender)
        message = protect(data, identity, counter % 2**32, deadline_ns)
        if what == "altered":
            position = draw(st.integers(0, len(message) - 1))
            message = message[:position] + b"?" + message[position + 1 :]
        elif what == "cut":
            message = message[: draw(st.integers(0, len(message) - 1))]
        elif what == "repeated" and sent:
            message = draw(st.sampled_from(sent))
        else:
            counter += what != "nothing"
        sent.append(message)
        made.append(Call(None if what == "nothing" else message, Instant(monotonic_ns, wall_ns)))
    return made
