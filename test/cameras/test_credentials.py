"""Passwords of cameras: where they come from, and where they never stand."""

import pytest
from viewer import Viewer

from perception_nodes.cameras.awaited import channel_trouble
from perception_nodes.cameras.camera_source import CameraError
from perception_nodes.cameras.credentials import redacted, with_passwords, without_passwords
from perception_nodes.cameras.video_source import VideoSource

SOURCES = [
    ("rtsp://user:{}@host:554/a?b=c@d", "p%40ss:w"),
    ("gst:rtspsrc location=rtsp://user:{}@host/a ! decodebin", "secret"),
    ("gst:rtspsrc location=rtsp://host/a user-id=user user-pw={} ! decodebin", "secret"),
    ('gst:rtspsrc location=rtsp://host/a user-pw="{}"', "two words"),
    ("gst:souphttpsrc location=http://host/a proxy-pw={} ! decodebin", "secret"),
    ("http://host/video.cgi?user=admin&pwd={}&rate=0", "secret"),
    ("srt://host:9000?passphrase={}&mode=caller", "secret"),
]


@pytest.mark.parametrize(("form", "password"), SOURCES)
def test_a_password_goes_to_another_process_by_its_environment(monkeypatch, form, password):
    source = form.format(password)
    assert redacted(f"{source} is gone").count("***") == 1
    hidden, variables = without_passwords(source)
    for text in (hidden, redacted(source)):
        assert password not in text
    assert redacted(hidden) == hidden, "names of variables are no secret"
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert with_passwords(hidden) == with_passwords(source) == source


@pytest.mark.parametrize("source", ["v4l2:/dev/video0", "rtsp://h/a", "/drives/a:b@c.mp4", "shm"])
def test_a_source_without_a_password_stays_as_it_is(source):
    assert (redacted(source), without_passwords(source)) == (source, (source, {}))
    assert with_passwords(source) == source


def test_a_long_text_without_a_password_takes_no_minutes():
    assert redacted("a" * 1_000_000) == "a" * 1_000_000


def test_a_password_may_come_from_a_variable_or_a_file(monkeypatch, tmp_path):
    url = "rtsp://user:$CAMERA@host/a"
    with pytest.raises(Exception, match="environment variable CAMERA is not set"):
        with_passwords(url)
    monkeypatch.setenv("CAMERA", "p@ss/word")
    assert with_passwords(url) == "rtsp://user:p%40ss%2Fword@host/a"
    assert with_passwords("http://host/a?pwd=$CAMERA&b=c") == "http://host/a?pwd=p%40ss%2Fword&b=c"
    monkeypatch.setenv("CAMERA", 'two "words" ! fakesink')
    assert with_passwords("user-pw=$CAMERA a=b") == r'user-pw="two \"words\" ! fakesink" a=b'
    (tmp_path / "netrc").write_text("machine host login user password p@ss\n")
    monkeypatch.setenv("PERCEPTION_NETRC", str(tmp_path / "netrc"))
    for place in ("host/a", "user@host/a"):
        assert with_passwords(f"rtsp://{place}") == "rtsp://user:p%40ss@host/a"
    for place in ("other/a", "guest@host/a"):
        assert with_passwords(f"rtsp://{place}") == f"rtsp://{place}"
    monkeypatch.setenv("PERCEPTION_NETRC", str(tmp_path / "none"))
    with pytest.raises(CameraError, match="PERCEPTION_NETRC=.*none cannot be read"):
        VideoSource("rtsp://host/a").open()


def test_no_line_of_a_camera_has_its_password(join):
    viewer = Viewer(join, VideoSource("rtsp://user:hunter2@127.0.0.1:1/a"))
    with pytest.raises(CameraError, match=r"rtsp://user:\*\*\*@127.0.0.1:1/a cannot") as raised:
        viewer.feed.open()
    assert "hunter2" not in str(raised.value) + "".join(viewer.log)


def test_a_line_that_cannot_be_read_is_not_quoted(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine host login user hunter2\n")
    monkeypatch.setenv("PERCEPTION_NETRC", str(tmp_path / "netrc"))
    with pytest.raises(CameraError, match="netrc cannot be read") as raised:
        VideoSource("rtsp://host/a").open()
    assert "hunter2" not in str(raised.value)
    assert "hunter2" not in str(channel_trouble("front", "rtsp://user:hunter2@host/a", 0))
