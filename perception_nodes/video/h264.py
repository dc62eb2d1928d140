"""Reads the headers of H.264, to find the key frames and missing pictures of a stream.

FFmpeg replaces a missing picture by the one before it without a report. The numbers of the pictures
(`frame_num`, ITU-T H.264, 7.4.3) have a gap there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perception_nodes.core.frame import FrameRejected

START_CODE = b"\0\0\1"
UNIT_BYTES = 2048
"""Enough of a NAL unit for every header; slices are not copied whole."""
SLICE, IDR_SLICE, SEQUENCE_SET, PICTURE_SET = 1, 5, 7, 8
"""Types of NAL units."""
MAX_NUMBER_BITS = 16
HEADER_BYTES = 32
"""Enough of a slice for its frame number."""
HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
"""The profiles whose sequence parameter set states the chroma format."""


def nal_units(data: bytes) -> Iterator[bytes]:
    """The NAL units of a packet in the form of Annex B, cut to their beginnings.

    Raises:
        FrameRejected: it has another form.
    """
    at = data.find(START_CODE)
    if at < 0 or data[:at].strip(b"\0"):
        raise FrameRejected("the packet has no start code: H.264 and H.265 come in Annex B form")
    while at >= 0:
        begin, at = at + len(START_CODE), data.find(START_CODE, at + len(START_CODE))
        unit = data[begin : min(at if at >= 0 else len(data), begin + UNIT_BYTES)]
        if unit:
            yield unit


class _Bits:
    """Reads the bits of a NAL unit behind its first byte."""

    def __init__(self, unit: bytes) -> None:
        # A 3 behind two zeros only keeps the data from looking like a start code.
        payload = unit[1:].replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def number(self, bits: int) -> int:
        self._left -= bits
        if self._left < 0:
            raise FrameRejected("the packet is cut off inside a header")
        return (self._value >> self._left) & ((1 << bits) - 1)

    def golomb(self) -> int:
        """An unsigned number in Exp-Golomb code."""
        zeros = 0
        while not self.number(1):
            zeros += 1
            if zeros > 32:
                raise FrameRejected("a header is damaged")
        return (1 << zeros) - 1 + self.number(zeros)

    def signed_golomb(self) -> int:
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -code // 2


@dataclass(frozen=True)
class _Sequence:
    """What a sequence parameter set states of frame numbers."""

    number_bits: int
    gaps_allowed: bool


class FrameOrder:
    """Follows the frame numbers of a stream."""

    def __init__(self) -> None:
        """Nothing is known of the stream yet."""
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        self._expected: int | None = None

    def restart(self) -> None:
        """Expect any number next."""
        self._expected = None

    def read_sets(self, units: Sequence[bytes]) -> None:
        """Take the parameter sets among NAL units.

        Raises:
            FrameRejected: one is cut off or damaged.
        """
        for unit in units:
            if unit[0] & 31 == SEQUENCE_SET:
                self._read_sequence(unit)
            elif unit[0] & 31 == PICTURE_SET:
                bits = _Bits(unit)
                self._sequence_of[bits.golomb()] = bits.golomb()

    def follow(self, units: Sequence[bytes]) -> bool:
        """Take a packet's NAL units, cut to their beginnings; return whether one is missing.

        Raises:
            FrameRejected: a header is cut off, or refers to parameter sets that never came.
        """
        first = next((unit for unit in units if unit[0] & 31 in (SLICE, IDR_SLICE)), None)
        if first is None:
            return False
        sequence, number = self._number(first)
        limit = 1 << sequence.number_bits
        is_missing = (
            first[0] & 31 != IDR_SLICE
            and self._expected is not None
            and not sequence.gaps_allowed
            and number not in (self._expected, (self._expected - 1) % limit)
        )
        if first[0] >> 5 & 3:  # others refer to it
            self._expected = (number + 1) % limit
        return is_missing

    def _number(self, unit: bytes) -> tuple[_Sequence, int]:
        bits = _Bits(unit[:HEADER_BYTES])
        bits.golomb()  # the first macroblock
        bits.golomb()  # the kind of slice
        sequence = self._sequences.get(self._sequence_of.get(bits.golomb(), -1))
        if sequence is None:
            raise FrameRejected("the picture refers to parameter sets that never came")
        return sequence, bits.number(sequence.number_bits)

    def _read_sequence(self, unit: bytes) -> None:
        bits = _Bits(unit)
        profile = bits.number(8)
        bits.number(16)  # constraints, level
        name = bits.golomb()
        if profile in HIGH_PROFILES:
            chroma = bits.golomb()
            if chroma == 3:
                bits.number(1)  # colour planes of their own, which FFmpeg refuses
            bits.golomb(), bits.golomb()  # depths
            bits.number(1)
            if bits.number(1):
                _skip_scaling(bits, 8 if chroma != 3 else 12)
        number_bits = bits.golomb() + 4
        if number_bits > MAX_NUMBER_BITS:
            raise FrameRejected(f"frame numbers of {number_bits} bits are none")
        order = bits.golomb()
        if order == 0:
            bits.golomb()
        elif order == 1:
            bits.number(1)
            bits.signed_golomb(), bits.signed_golomb()
            for _ in range(bits.golomb()):
                bits.signed_golomb()
        bits.golomb()  # number of reference pictures
        self._sequences[name] = _Sequence(number_bits, bool(bits.number(1)))


def _skip_scaling(bits: _Bits, lists: int) -> None:
    for index in range(lists):
        if not bits.number(1):
            continue
        last = scale = 8
        for _ in range(16 if index < 6 else 64):
            if scale:
                scale = (last + bits.signed_golomb()) % 256
            last = scale or last
