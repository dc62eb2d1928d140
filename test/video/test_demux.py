"""Pictures of a stream: each that is lost is counted where it is missing."""

from threading import Event

import av
from videos import write_video

from perception_nodes.video.demux import VideoInput


def test_pictures_until_a_recovery_point_are_lost_before_the_next_one(tmp_path):
    """An encoder that refreshes pictures in columns sends no key frame behind the first."""
    options = {"g": "10", "bf": "0", "x264-params": "intra-refresh=1:repeat-headers=1:ref=1"}
    whole = write_video(tmp_path / "whole.ts", 50, preset="fast", **options)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "hurt.ts"), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number != 15:
                packet.stream = video
                target.mux(packet)
    stream = VideoInput(str(tmp_path / "hurt.ts"), is_live=True)
    pictures = [one for found, *_ in stream.live_pictures(Event()) for one in found]
    stream.close()
    assert len(pictures) == 49 and pictures == sorted(pictures, key=lambda one: one.pts)
    lost = [number for number, one in enumerate(pictures) if one.frame is None]
    assert len(lost) > 4 and lost == list(range(15, 15 + len(lost)))
