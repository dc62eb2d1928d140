"""Video files as drives: their pictures and times, and no picture that a decoder has patched up."""

import av
import cv2
import numpy as np
import pytest
import videos

from perception_nodes.core.frame import FrameRejected
from perception_nodes.drives.bag import open_drive
from perception_nodes.drives.video_storage import START_NS
from perception_nodes.transport.cdr_reader import read_image
from perception_nodes.video.demux import UNDRAWN

MS = 1_000_000
UNEVEN_MS = [0, 33, 66, 100, 133, 1200, 1233, 1266, 3300, 3333, 3366, 3400]


def pictures(path):
    """The drive, times of its frames from the first, and pixels, or why there are none."""
    times_ms, found = [], []
    with open_drive(path) as drive:
        for frame in drive.frames():
            times_ms.append(round((frame.log_time_ns - START_NS) / MS))
            try:
                image = read_image(frame.data)
                assert image.stamp_ns == frame.log_time_ns
                found.append(np.array(image.data).reshape(image.height, image.width, 3))
            except FrameRejected as error:
                found.append(str(error))
    return drive, times_ms, found


def remux(whole, path, keeps):
    """Write the packets of a video that a function keeps, which it may change, into another."""
    with av.open(str(whole)) as container, av.open(str(path), "w") as cut:
        (video,) = container.streams.video
        stream = cut.add_stream_from_template(video)
        for packet in container.demux(video):
            if packet.size and keeps(packet):
                packet.stream = stream
                cut.mux(packet)


def numbers(found):
    """Which frame each picture is of, by its brightness."""
    return [one if isinstance(one, str) else round((one[:, 32:].mean() - 40) / 4) for one in found]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("video.mp4", {"bf": "2"}),
        ("video.mov", {"codec": "mpeg4"}),
        ("video.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
        ("video.mkv", {"pixels": "yuv422p10le"}),
        ("video.webm", {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("video.mpg", {"codec": "mpeg2video", "bf": "2"}),
    ],
)
def test_each_picture_comes_once_as_opencv_reads_it(tmp_path, name, options):
    path = videos.write_video(tmp_path / name, **options)
    drive, times_ms, found = pictures(path)
    video, wanted = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        wanted.append(read[1])
    assert np.shape(found) == np.shape(wanted)
    # OpenCV has an FFmpeg of its own.
    assert np.abs(np.subtract(found, wanted, dtype=np.int16)).max() <= 1
    assert times_ms == [videos.PERIOD_MS * index for index in range(videos.FRAMES)]
    assert (drive.lost, drive.warnings) == (0, [])


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv"])
def test_frames_of_no_steady_rate_have_their_own_times_and_none_is_lost(tmp_path, name):
    drive, times_ms, found = pictures(videos.write_video(tmp_path / name, times_ms=UNEVEN_MS))
    assert times_ms == UNEVEN_MS
    assert drive.duration_ns == pytest.approx(UNEVEN_MS[-1] * MS, rel=0.1)
    assert numbers(found) == list(range(len(UNEVEN_MS)))
    assert (drive.lost, drive.warnings) == (0, [])


def test_pictures_whose_packets_have_the_times_of_others_are_not_lost(tmp_path):
    """AVI has none but the order of its packets."""
    drive, times_ms, found = pictures(videos.write_video(tmp_path / "video.avi", bf="2"))
    assert numbers(found) == list(range(videos.FRAMES))
    assert (np.diff(times_ms) > 0).all()
    assert (drive.lost, drive.warnings) == (0, [])


def test_pictures_that_the_decoder_leaves_out_without_a_word_fail_in_their_places(tmp_path):
    """The first ones of a file that was cut at a key frame which others refer over."""
    groups = "open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0:b-adapt=0"
    options = {"x265-params": f"log-level=none:{groups}"}
    whole = videos.write_video(tmp_path / "whole.mkv", codec="libx265", **options)
    keys = []

    def is_behind_the_second_key(packet):
        keys.append(packet.is_keyframe)
        return sum(keys) > 1

    remux(whole, tmp_path / "cut.mkv", is_behind_the_second_key)
    drive, times_ms, found = pictures(tmp_path / "cut.mkv")
    shown = numbers(found)
    left_out = shown.count(UNDRAWN)
    assert 0 < left_out < 4
    assert shown[:left_out] == [UNDRAWN] * left_out
    assert shown[left_out:] == list(range(10, videos.FRAMES))
    assert times_ms == [videos.PERIOD_MS * index for index in range(len(found))]


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv"])
@pytest.mark.parametrize(
    ("number", "options"),
    [
        (14, {"bf": "0"}),
        (14, {"x264-params": videos.OPEN_GROUPS}),
        (4, {"codec": "mpeg4", "bf": "2", "qmax": "2"}),
        (4, {"codec": "mpeg2video", "bf": "2", "qmax": "2"}),
    ],
    ids=["h264", "open groups", "mpeg4", "mpeg2"],
)
def test_a_damaged_picture_and_those_drawn_on_it_fail_and_no_wrong_one_is_shown(
    tmp_path, name, number, options
):
    path = videos.hurt(videos.write_video(tmp_path / name, g="10", **options), number)
    drive, times_ms, found = pictures(path)
    shown = numbers(found)
    lost = [index for index, one in enumerate(shown) if isinstance(one, str)]
    assert 0 < len(lost) <= 16
    first = number // 10 * 10
    assert first <= min(lost) and max(lost) < first + 20
    causes = {shown[index] for index in lost}
    assert causes <= {"the file is damaged", UNDRAWN}
    assert number == 14 or UNDRAWN in causes
    assert [one for one in shown if not isinstance(one, str)] == [
        index for index in range(videos.FRAMES) if index not in lost
    ]
    assert times_ms == [videos.PERIOD_MS * index for index in range(videos.FRAMES)]
    assert (drive.lost, drive.warnings) == (0, [])


def test_of_a_file_that_was_cut_off_the_rest_is_lost(tmp_path):
    """The header, in front, tells how many frames there were."""
    path = videos.write_video(tmp_path / "video.mp4", muxer={"movflags": "faststart"}, g="10")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    drive, _, found = pictures(path)
    good = [one for one in numbers(found) if not isinstance(one, str)]
    assert good == list(range(len(good)))
    assert 0 < len(good) < videos.FRAMES
    assert len(found) + drive.lost == videos.FRAMES
    assert f"{drive.lost} of {videos.FRAMES} frames are lost" in drive.warnings[-1]


def test_a_file_that_ends_before_its_time_is_named_where_it_counts_no_frames(tmp_path):
    path = videos.write_video(tmp_path / "video.mkv", times_ms=list(range(0, 30_000, 1000)), g="5")
    path.write_bytes(path.read_bytes()[: videos.place(path, 20)[0]])
    drive, times_ms, found = pictures(path)
    assert numbers(found) == list(range(len(found)))
    assert 0 < len(found) < 29
    assert drive.lost == 0
    missing_s = (29_000 + videos.PERIOD_MS - times_ms[-1]) / 1000
    ends = f"its last frame is {missing_s:.2f} s before the end that it states"
    assert ends in drive.warnings[0]
    assert "how many more frames are lost is not known" in drive.warnings[1]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("video.mkv", "libx264", {"bf": "0"}), ("video.webm", "libvpx", {})],
)
def test_a_few_frames_that_are_cut_off_are_named_where_the_pictures_have_a_length(
    tmp_path, name, codec, options
):
    path = videos.write_video(tmp_path / name, codec=codec, **options)
    drive, _, found = pictures(path)
    assert (len(found), drive.warnings) == (videos.FRAMES, [])
    path.write_bytes(path.read_bytes()[: videos.place(path, videos.FRAMES - 2)[0]])
    drive, times_ms, found = pictures(path)
    assert videos.FRAMES - 10 < len(found) < videos.FRAMES
    missing_s = videos.PERIOD_MS * videos.FRAMES / 1000 - times_ms[-1] / 1000
    assert f"its last frame is {missing_s:.2f} s before the end" in drive.warnings[0]


@pytest.mark.parametrize("first", [7, 8])
@pytest.mark.parametrize("group", ["4", "20"])
def test_frames_that_a_file_is_not_to_show_are_not_lost(tmp_path, group, first):
    """Those before the cut, of which the ones behind it may be drawn."""

    def shift(packet):
        packet.pts -= round(first * videos.PERIOD_MS / 1000 / packet.time_base)
        packet.dts -= round(first * videos.PERIOD_MS / 1000 / packet.time_base)
        return True

    remux(videos.write_video(tmp_path / "whole.mp4", g=group, bf="0"), tmp_path / "cut.mp4", shift)
    drive, times_ms, found = pictures(tmp_path / "cut.mp4")
    assert numbers(found) == list(range(first, videos.FRAMES))
    assert times_ms == [videos.PERIOD_MS * index for index in range(videos.FRAMES - first)]
    assert (drive.lost, drive.warnings) == (0, [])
    assert drive.frame_count == pytest.approx(videos.FRAMES - first, abs=1)


@pytest.mark.parametrize(("matrix", "corner"), videos.ORIENTATIONS.items())
def test_a_video_that_states_how_it_was_held_is_upright(tmp_path, matrix, corner):
    _, _, found = pictures(videos.write_oriented(tmp_path / "video.mp4", matrix))
    assert len(found) == 3
    for picture in found:
        assert picture.shape == ((48, 64, 3) if matrix[0] else (64, 48, 3))
        assert videos.bright_corner(picture.mean(2)) == corner
