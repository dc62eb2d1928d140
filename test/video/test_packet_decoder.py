"""Video packets: each gives its own picture, or a reason; never another picture."""

from contextlib import nullcontext

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from videos import KEY_EVERY, packets, pictures

from perception_nodes.core.frame import FrameRejected, ImageView
from perception_nodes.video import packet_decoder
from perception_nodes.video.packet_decoder import VideoDecoder

STREAMS = ["h264", "h264 cavlc", "h264 plain", "h265"]
every_stream = pytest.mark.parametrize("kind", STREAMS)


def view(kind, packet):
    return ImageView(7, "optical", 0, 0, kind.split()[0], 0, memoryview(packet))


def decoded(kind, stream):
    """For each packet its NV12 bytes, or the reason why there is no picture."""
    decoder, found = VideoDecoder(), []
    for packet in stream:
        try:
            found.append(bytes(decoder.decode(view(kind, packet)).data))
        except FrameRejected as error:
            found.append(str(error))
    return found


@every_stream
def test_each_packet_gives_the_picture_that_was_put_in(kind):
    decoder = VideoDecoder()
    for packet, picture in zip(packets(kind), pictures(20), strict=True):
        found = decoder.decode(view(kind, packet))
        assert (found.encoding, found.width, found.height, found.step) == ("nv12", 96, 64, 96)
        assert (found.stamp_ns, found.frame_id, found.copies) == (7, "optical", 1)
        pixels = np.frombuffer(found.data, np.uint8).reshape(96, 96)
        assert np.abs(cv2.cvtColor(pixels, cv2.COLOR_YUV2BGR_NV12).astype(int) - picture).mean() < 8


@every_stream
@pytest.mark.parametrize("first", [1, 7, 8, 11])
def test_decoding_starts_at_a_key_frame(kind, first):
    whole, found = decoded(kind, packets(kind)), decoded(kind, packets(kind)[first:])
    before = -first % KEY_EVERY
    for reason in found[:before]:
        assert "decoding starts at a key frame, and none has come yet" in reason
    assert found[before:] == whole[first + before :]


@every_stream
@given(lost=st.sets(st.integers(0, 19), max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_lost_packet_costs_the_frames_until_the_next_key_frame(kind, lost):
    stream = packets(kind)
    whole = decoded(kind, stream)
    found = iter(decoded(kind, [one for index, one in enumerate(stream) if index not in lost]))
    is_broken = True
    for index, picture in enumerate(whole):
        is_broken = (is_broken and index % KEY_EVERY != 0) or index in lost
        if index in lost:
            continue
        one = next(found)
        if is_broken:
            assert "missing" in one or "none has come yet" in one
        else:
            assert one == picture


@every_stream
def test_a_picture_that_is_too_large_is_refused_by_its_size(kind, monkeypatch):
    assert packet_decoder.OPTIONS["max_pixels"] == str(1 << 24)
    monkeypatch.setitem(packet_decoder.OPTIONS, "max_pixels", "6143")
    assert "64 exceeds specified max pixel count" in decoded(kind, packets(kind)[:1])[0]


def test_work_on_a_large_packet_is_announced(monkeypatch):
    first, announced = packets("h265")[0], []
    for most, times in ((len(first), 0), (len(first) - 1, 1)):
        monkeypatch.setattr(packet_decoder, "SLOW_BYTES", most)
        VideoDecoder(lambda: nullcontext(announced.append(1))).decode(view("h265", first))
        assert len(announced) == times


@every_stream
@pytest.mark.parametrize("hurt", [0, 3])
def test_a_packet_that_is_cut_off_is_no_picture(kind, hurt):
    stream, whole = packets(kind), decoded(kind, packets(kind))
    length = len(stream[hurt])
    # Inside a slice the decoder of H.265 need not notice.
    for size in (0, 3, 5, *(() if kind == "h265" else (length // 4, length // 2))):
        found = decoded(kind, [*stream[:hurt], stream[hurt][:size], *stream[hurt + 1 :]])
        assert found[:hurt] == whole[:hurt]
        assert all(isinstance(one, str) for one in found[hurt:KEY_EVERY])
        assert found[KEY_EVERY:] == whole[KEY_EVERY:]


@pytest.mark.parametrize("kind", ["h264", "h265"])
def test_damage_is_read_or_refused_and_over_with_the_next_key_frame(kind):
    stream, whole, rng = packets(kind), decoded(kind, packets(kind)), np.random.default_rng(1)
    for _ in range(60):
        hurt = int(rng.integers(0, KEY_EVERY))
        data = bytearray(stream[hurt])
        for at in rng.integers(0, len(data), rng.integers(1, 20)):
            data[at] = rng.integers(0, 256)
        found = decoded(kind, [*stream[:hurt], bytes(data), *stream[hurt + 1 :]])
        assert found[:hurt] == whole[:hurt]
        assert found[2 * KEY_EVERY :] == whole[2 * KEY_EVERY :]


@pytest.mark.parametrize(
    ("kind", "named", "reason"),
    [
        ("h264", "h265", "none has come yet"),
        ("h265", "h264", "holds no picture of this codec"),
        ("h264 with B-frames", "h264", "encode without B-frames"),
    ],
)
def test_a_stream_of_another_kind_is_refused(kind, named, reason):
    found = decoded(named, packets(kind))
    assert all(isinstance(one, str) for one in found)
    assert any(reason in one for one in found)


@pytest.mark.parametrize("junk", [b"", b"\0\0\0\1", b"\0\0\0\x20\x65abc", bytes(range(256)) * 9])
def test_what_is_no_video_is_refused(junk):
    for kind in ("h264", "h265"):
        (reason,) = decoded(kind, [junk])
        assert reason.startswith(f"{kind}: the packet")


def without_sets(packet):
    """An H.264 packet without its parameter sets, and these."""
    units = [b"\0\0\1" + unit.rstrip(b"\0") for unit in packet.split(b"\0\0\1")[1:]]
    is_set = [unit[3] & 31 in (7, 8) for unit in units]
    return (
        b"".join(unit for unit, is_one in zip(units, is_set, strict=True) if not is_one),
        b"".join(unit for unit, is_one in zip(units, is_set, strict=True) if is_one),
    )


def test_a_key_frame_needs_parameter_sets():
    stream, whole = packets("h264"), decoded("h264", packets("h264"))
    bare, sets = without_sets(stream[0])
    found = decoded("h264", [bare, *stream[1:]])
    assert all("parameter sets" in reason for reason in found[:KEY_EVERY])
    assert found[KEY_EVERY:] == whole[KEY_EVERY:]
    # They may have come alone, or long ago.
    alone = decoded("h264", [sets, bare, *stream[1:KEY_EVERY], without_sets(stream[KEY_EVERY])[0]])
    assert "without a picture" in alone[0]
    assert alone[1:] == whole[: KEY_EVERY + 1]
    late = decoded("h264", [*stream[:2], *stream[3:KEY_EVERY], without_sets(stream[KEY_EVERY])[0]])
    assert late[-1] == whole[KEY_EVERY]


@pytest.mark.parametrize("kind", ["h264", "h265"])
def test_the_size_may_change_at_a_key_frame(kind):
    small, large = packets(kind, 8), packets(kind, 8, (128, 96))
    found = decoded(kind, [*small, *large, *small])
    assert {len(one) for one in found[8:16]} == {128 * 96 * 3 // 2}
    assert found == decoded(kind, small) + decoded(kind, large) + decoded(kind, small)


def test_the_codec_may_change():
    decoder = VideoDecoder()
    for kind in ("h264", "h265", "h264"):
        for packet in packets(kind, 8):
            decoder.decode(view(kind, packet))


def test_after_an_interruption_a_key_frame_is_awaited():
    decoder, found = VideoDecoder(), []
    for index, packet in enumerate(packets("h264")):
        if index == 3:
            decoder.interrupt("packets were lost")
        try:
            decoder.decode(view("h264", packet))
            found.append(index)
        except FrameRejected as error:
            assert str(error) == "h264: a key frame is awaited since: packets were lost"
    assert found == [0, 1, 2, *range(8, 20)]


def test_other_encodings_pass():
    image = ImageView.of_pixels(np.zeros((2, 2, 3), np.uint8))
    assert VideoDecoder().decode(image) is image


def test_decoders_do_not_disturb_one_another():
    decoders = [VideoDecoder(), VideoDecoder()]
    stream, whole = packets("h264"), decoded("h264", packets("h264"))
    for index, packet in enumerate(stream):
        for decoder in decoders:
            assert bytes(decoder.decode(view("h264", packet)).data) == whole[index]
