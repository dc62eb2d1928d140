"""Mutations of valid messages, aimed at lengths, alignment, text and doubles."""

import struct

INTERESTING = (0, 1, 2, 3, 4, 7, 8, 14, 15, 63, 64, 127, 128, 255, 256, 4096, 4097, 65535, 65536)
WORDS = (*INTERESTING, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4, 999_999_999, 1_000_000_000)
LONG_WORDS = (*WORDS, 2**63 - 1, 2**63, 2**64 - 1, 2**62)
DOUBLES = (0.0, -0.0, 1e-308, 1e308, -1e308, 1e30, float("nan"), float("inf"), float("-inf"), -1.0)
TEXTS = (
    *(b"bgr8\0", b"mono8\0", b"nv12\0", b"yuyv\0", b"bayer_rggb8\0", b"jpeg\0", b"mono16\0"),
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"plumb_bob\0", b"equidistant\0", b"\xf0\x28\x8c\xbc"),
)


def mutated(seed, source):
    """A message with one to four changes."""
    data = bytearray(seed)
    for _ in range(source.randint(1, 4)):
        if data:
            source.choice(_MUTATIONS)(data, source)
    return bytes(data)


def _value(data, source):
    """A field: a length, a size, seconds, a double, or a text, in either byte order."""
    code, values = source.choice((("I", WORDS), ("Q", LONG_WORDS), ("d", DOUBLES), ("", TEXTS)))
    chosen = source.choice(values)
    value = struct.pack(source.choice("<>") + code, chosen) if code else chosen
    at = source.randrange(0, max(1, len(data)), 4 if code else 1)
    data[at : at + len(value)] = value[: len(data) - at]


def _word_near(data, source):
    """A 32-bit field that is off by a little, as lengths in a damaged message are."""
    at = source.randrange(0, max(1, len(data) - 3), 4) if len(data) > 4 else 0
    if at + 4 <= len(data):
        order = "<" if len(data) > 1 and data[1] else ">"
        value = struct.unpack_from(order + "I", data, at)[0] + source.randint(-16, 16)
        struct.pack_into(order + "I", data, at, value % 2**32)


def _byte(data, source):
    data[source.randrange(len(data))] = source.getrandbits(8)


def _bit(data, source):
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _cut(data, source):
    del data[source.randrange(len(data)) :]


def _remove(data, source):
    at = source.randrange(len(data))
    del data[at : at + source.randint(1, 8)]


def _insert(data, source):
    at = source.randrange(len(data))
    data[at:at] = bytes(source.choice((1, 2, 4, 8, 100)))


def _nest(data, source):
    """Brackets that open and do not close, few or more than a parser has stack for."""
    at = source.randrange(len(data))
    data[at:at] = source.choice((b"[", b"{", b"(", b"- ")) * source.choice((1, 2, 3, 4, 2000))


def _turn(data, source):
    """The other byte order, or no CDR at all."""
    if len(data) > 1:
        data[1] = source.choice((0, 1, 2, 7))


_MUTATIONS = (
    *(_value, _value, _value, _value, _word_near, _word_near, _byte, _bit),
    *(_cut, _remove, _insert, _nest, _turn),
)
