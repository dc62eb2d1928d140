"""A page of a graph that is not there: a feed filled by hand, served on a free port."""

import itertools
import time
from contextlib import closing, contextmanager
from types import SimpleNamespace

import numpy as np
import simplejpeg
from observe import free_port

from perception_nodes.core.frame import STAMPS, FrameStatus
from perception_nodes.core.health import HealthMode
from perception_nodes.replay.background import repeated
from perception_nodes.report.annotate import class_colour
from perception_nodes.view import feed as feed_module
from perception_nodes.view.feed import Feed, ShownPicture
from perception_nodes.view.server import PageServer

COUNTS = {status.name: 7 * status for status in FrameStatus}
STAGES_MS = (0.9, 0.6, 4.2, 0.3, 0.4)


def report(status=FrameStatus.OK, ms=6.4, reason="", frame_id="camera", begun_ns=None, sequence=0):
    """A frame report whose stages share the latency as they do."""
    begun_ns = time.monotonic_ns() if begun_ns is None else begun_ns
    ends = np.cumsum([0.0, *STAGES_MS]) / sum(STAGES_MS) * ms * 1e6 + begun_ns
    stamps = dict(zip(STAMPS, (int(end) for end in ends), strict=True))
    if status in (FrameStatus.SKIPPED_LATE, FrameStatus.SUPERSEDED, FrameStatus.FAILED):
        stamps.update(inferred_ns=0, postprocessed_ns=0, published_ns=0)
    stamp = SimpleNamespace(sec=1_700_000_000, nanosec=40)
    header = SimpleNamespace(stamp=stamp, frame_id=frame_id)
    return SimpleNamespace(
        sequence=sequence,
        status=status,
        reason=reason,
        model="open-n",
        detections=2,
        copies=0,
        header=header,
        looks=[],
        **stamps,
    )


def picture(grey=90, name="car"):
    """A grey frame with one object in its middle, at which the network looked again."""
    pixels = np.full((90, 160, 3), grey, np.uint8)
    box = [0.4, 0.4, 0.6, 0.6]
    objects = [[*box, name, 0.8, class_colour(name), "12"]]
    return ShownPicture(simplejpeg.encode_jpeg(pixels, 80, "BGR"), objects, [[0.2, 0.3, 0.7, 0.8]])


def pass_s(monkeypatch, seconds):
    """Let time pass for feeds."""

    def monotonic_ns():
        return time.monotonic_ns() + seconds * 10**9

    clock = SimpleNamespace(monotonic_ns=monotonic_ns, time_ns=time.time_ns)
    monkeypatch.setattr(feed_module, "time", clock)


def nominal(feed, camera="front"):
    feed.health(camera, HealthMode.NOMINAL, "detections arrive in time", [], COUNTS)


def turning(feed):
    """Let the page's process have time, as its node does in each step."""
    return repeated(feed.turned, 0.05)


@contextmanager
def served(*cameras, **options):
    """A feed, its server and the port."""
    port, values = free_port(), {"address": "localhost", "token": "", "rate_hz": 30.0, **options}
    feed = Feed(cameras or ("front",), 10.0, values["rate_hz"])
    with closing(PageServer(feed, port=port, **values)) as server:
        server.start()
        yield feed, server, port


def fed(feed, *cameras):
    """Fill it as a running graph does, a miss now and then."""
    numbers = itertools.count(1)

    def feeding():
        number, late = next(numbers), (FrameStatus.LATE, 13.0, "late by 3.0 ms")
        for camera in cameras or ("front",):
            one = report() if number % 20 else report(*late)
            feed.frame(camera, one, picture(number % 200))
            if number % 3 == 1:
                nominal(feed, camera)

    return repeated(feeding, 1 / 30)
