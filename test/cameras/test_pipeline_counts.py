"""What a pipeline's buffers say of lost frames; the pipelines themselves need GStreamer."""

from types import SimpleNamespace

import pytest

from perception_nodes.cameras.gstreamer_source import UNSET, GStreamerSource


@pytest.mark.parametrize(
    ("buffers", "skipped", "gaps"),
    [
        ([(7, 8), (8, 9), (11, 12), (12, 13)], 0, [0, 0, 2, 0]),
        ([(7, 8), (11, 12)], 3, [3, 3]),  # the source has counted those that we skipped
        ([(7, UNSET), (8, UNSET), (11, UNSET)], 0, [0, 0, 2]),  # sources of industrial cameras
        ([(0, UNSET)] * 3, 3, [3, 3, 3]),
        ([(0, UNSET), (3072, UNSET), (6144, UNSET)], 0, [0, 0, 0]),  # rawvideoparse
        ([(0, 3072), (3072, 6144), (6144, 9216)], 1, [1, 1, 1]),  # filesrc
        ([(7, 8), (9000, UNSET), (9, 10), (11, 12)], 0, [0, 0, 0, 1]),
        ([(7, 8), (0, 1), (1, 2)], 0, [0, 0, 0]),  # it counts anew
    ],
)
def test_only_the_numbers_of_frames_tell_of_lost_ones(buffers, skipped, gaps):
    source = GStreamerSource("videotestsrc")
    places = [SimpleNamespace(offset=offset, offset_end=end) for offset, end in buffers]
    counted = [source._gap(place, skipped) for place in places]
    assert counted == gaps
