"""What a user writes for a camera: the right source, or one line that says what is wrong."""

import pytest

from perception_nodes.cameras.camera_source import CameraError, CameraGone
from perception_nodes.cameras.source_for import is_file, source_for
from perception_nodes.cameras.v4l2_devices import Mode, V4l2Settings, choose_mode
from perception_nodes.cameras.v4l2_source import V4l2Source
from perception_nodes.cameras.video_source import VideoSource

WEBCAM = [
    Mode(code, width, height, rate)
    for code, rates in ((b"YUYV", {640: 30.0, 1920: 5.0}), (b"MJPG", {640: 30.0, 1920: 30.0}))
    for width, rate in rates.items()
    for height in (width * 9 // 16,)
]


def test_each_form_is_its_own_source(tmp_path):
    video = tmp_path / "drive.mp4"
    video.touch()
    assert isinstance(source_for("v4l2:/dev/video7"), V4l2Source)
    assert isinstance(source_for("/dev/video7"), V4l2Source)
    assert isinstance(source_for("rtsp://127.0.0.1/front"), VideoSource)
    assert isinstance(source_for(str(video), loop=True), VideoSource)


def test_all_urls_but_those_of_files_are_streams_that_may_come_back(tmp_path):
    for url in ("rtmp://127.0.0.1:1/x", "RTSP://127.0.0.1:1/x", "tcp://127.0.0.1:1"):
        assert not is_file(url)
        with pytest.raises(CameraGone, match=f"{url.lower()} cannot be opened"):
            source_for(url).open()
    video = tmp_path / "drive.mp4"
    for url in (f"file://{video}", f"FILE://{video}"):
        with pytest.raises(CameraError, match=r"drive\.mp4' is neither there nor"):
            source_for(url)
    video.write_text("no video")
    for url in (f"file://{video}", f"FILE://{video}"):
        assert is_file(url)
        with pytest.raises(CameraError, match=f"^{video} cannot be opened") as raised:
            source_for(url).open()
        assert not isinstance(raised.value, CameraGone)


def test_a_source_of_any_length_is_looked_at():
    assert not is_file("gst:" + "videotestsrc ! " * 30 + "video/x-raw")


@pytest.mark.parametrize("text", ["", "camera", "v4l3:/dev/video0", "no/such/file.mp4"])
def test_the_refusal_of_an_unknown_form_names_the_known_ones(text):
    with pytest.raises(CameraError, match="v4l2:/dev/video0, gst:PIPELINE"):
        source_for(text)


def test_options_of_v4l2_are_refused_for_others():
    with pytest.raises(CameraError, match="controls can only be set for v4l2: sources"):
        source_for("rtsp://127.0.0.1/front", V4l2Settings(controls="gain=0"))


def test_a_device_that_is_not_there_may_come_back():
    with pytest.raises(CameraGone, match="/dev/video99 is not there"):
        source_for("v4l2:/dev/video99").open()


@pytest.mark.parametrize(
    ("wanted", "mode"),
    [
        (V4l2Settings("v"), Mode(b"MJPG", 1920, 1080, 30.0)),  # size and rate before the format
        (V4l2Settings("v", rate_hz=5.0), Mode(b"YUYV", 1920, 1080, 5.0)),  # nothing is decoded
        (V4l2Settings("v", width=640), Mode(b"YUYV", 640, 360, 30.0)),
        (V4l2Settings("v", pixel_format="YUYV"), Mode(b"YUYV", 640, 360, 30.0)),
        (V4l2Settings("v", 1920, 1080, pixel_format="YUYV"), Mode(b"YUYV", 1920, 1080, 5.0)),
    ],
)
def test_the_mode_is_what_is_asked_for_or_the_best(wanted, mode):
    assert choose_mode(WEBCAM, wanted) == mode


def test_the_refusal_of_a_mode_names_those_of_the_device():
    with pytest.raises(CameraError, match="has no mode NV12.*it has MJPG 1920x1080"):
        choose_mode(WEBCAM, V4l2Settings("v", pixel_format="NV12"))
