"""Writes traces for ui.perfetto.dev: tracks with slices, instants, counters and flows.

The format is Perfetto's protobuf: a `Trace` of `TracePacket`s with `TrackEvent`s. The numbers below
are those of its fields. They are few, so the bytes are written here and no library is needed.
"""

import struct
from collections.abc import Mapping

Value = int | float | str | bytes
Facts = Mapping[str, int | float | str]
_SEQUENCE = 1
_BEGIN, _END, _INSTANT, _COUNTER = 1, 2, 3, 4


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, value: Value) -> bytes:
    """A field: an int as a varint, a float as a double, texts and messages with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 1) + struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


class Trace:
    """A trace in memory; events of one track are added in the order of their times."""

    def __init__(self) -> None:
        self._packets: list[bytes] = []
        self._last_track = 0

    def process(self, name: str, number: int) -> int:
        """Add a process with this number; returns its track."""
        return self._track(_field(3, _field(1, number) + _field(6, name)))

    def track(self, name: str, parent: int) -> int:
        """Add a track for slices and instants below another one."""
        return self._track(_field(2, name) + _field(5, parent))

    def counter(self, name: str, unit: str, parent: int) -> int:
        """Add a track for the values of a counter."""
        return self._track(_field(2, name) + _field(5, parent) + _field(8, _field(6, unit)))

    def slice(
        self,
        track: int,
        name: str,
        begin_ns: int,
        end_ns: int,
        facts: Facts | None = None,
        flow: int = 0,
        ends_flow: bool = False,
    ) -> None:
        """Add something that lasts; slices of one track must not overlap.

        Args:
            track: where it is shown.
            name: its name.
            begin_ns: when it began.
            end_ns: when it ended.
            facts: what is shown of it when it is chosen.
            flow: slices of the same flow are connected by arrows; 0 for none.
            ends_flow: the flow's last slice.
        """
        number = 48 if ends_flow else 47
        flows = _varint(number << 3 | 1) + struct.pack("<Q", flow) if flow else b""
        self._event(begin_ns, _BEGIN, track, _field(23, name) + _notes(facts) + flows)
        self._event(max(begin_ns, end_ns), _END, track)

    def instant(self, track: int, name: str, at_ns: int, facts: Facts) -> None:
        """Add something that happened at one time."""
        self._event(at_ns, _INSTANT, track, _field(23, name) + _notes(facts))

    def count(self, track: int, at_ns: int, value: float) -> None:
        """Set the value of a counter from this time on."""
        self._event(at_ns, _COUNTER, track, _field(44, float(value)))

    def data(self) -> bytes:
        """The file."""
        return b"".join(_field(1, packet) for packet in self._packets)

    def _track(self, description: bytes) -> int:
        self._last_track += 1
        self._packets.append(_field(60, _field(1, self._last_track) + description))
        return self._last_track

    def _event(self, at_ns: int, kind: int, track: int, more: bytes = b"") -> None:
        event = _field(9, kind) + _field(11, track) + more
        self._packets.append(_field(8, at_ns) + _field(10, _SEQUENCE) + _field(11, event))


_NOTE_FIELDS = {int: 4, float: 5, str: 6}


def _notes(facts: Facts | None) -> bytes:
    return b"".join(
        _field(4, _field(10, name) + _field(_NOTE_FIELDS[type(value)], value))
        for name, value in (facts or {}).items()
    )
