"""The page of a running graph, by what a browser gets: frames and their boxes."""

import asyncio
import json
import os
import signal
import struct
from contextlib import suppress

import aiohttp
import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from observe import free_port
from played_graph import BOX, GREY, played
from started_graph import ROOT, hurry, left_behind, only_run

from perception_nodes.core.frame import FrameStatus
from perception_nodes.networks.model import load_model

pytestmark = [pytest.mark.ros, only_run]
# Whether frames are in time on this machine is not asked here.
GRAPH = ("model:=open-n", "standby:=never", "deadline_ms:=900")
TIMEOUT_S = 300.0
NICEST = 19


def looked(port, wanted):
    """The first update of which `wanted` holds, to a browser that waits for the page."""

    async def look():
        url = f"http://localhost:{port}"
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    stream = await session.ws_connect(f"{url}/stream", headers={"Origin": url})
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
            async with stream:
                await stream.receive()
                while True:
                    await stream.send_str("next")
                    data = await stream.receive_bytes()
                    (size,) = struct.unpack_from("<I", data)
                    facts = json.loads(data[4 : 4 + size])
                    if wanted(facts):
                        return facts, data[4 + size :]

    return asyncio.run(asyncio.wait_for(look(), TIMEOUT_S))


def hurried(graph):
    """Wait until the page gives way to all others; then it need not, on a busy machine."""

    def gives_way():
        with suppress(FileNotFoundError, ProcessLookupError):  # not there, or it has just ended
            return os.getpriority(os.PRIO_PROCESS, graph.nodes().get("view_node", 0)) == NICEST
        return False

    graph.until(gives_way)
    hurry(graph.nodes()["view_node"])


def pixels(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def objects(facts):
    return list((facts["cameras"]["front"].get("picture") or {}).get("objects") or [])


def test_a_played_drive_is_shown_with_its_objects_and_ends_in_good_order(start, domain):
    port = free_port()
    bag = (f"bag:={ROOT / 'bags/sample'}", "rate:=0.25")
    graph = start(*GRAPH, *bag, "view:=true", f"view_port:={port}")
    hurried(graph)
    facts, jpeg = looked(port, objects)
    graph.until(lambda: f"the page is at http://localhost:{port}" in graph.output())
    front = facts["cameras"]["front"]
    assert front["picture"]["status"] in (FrameStatus.OK, FrameStatus.LATE)
    assert front["health"] and front["model"] == "open-n"
    # A camera on a topic is shown as the network sees it: 640x272 within 416x256.
    assert pixels(jpeg).shape == (177, 416, 3)
    for x1, y1, x2, y2, name, score, *_ in objects(facts):
        assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 and 0 < score <= 1
        assert name in load_model("open-n").classes
    graph.signal(signal.SIGINT)
    assert graph.end() == 130
    assert [name for name in left_behind(domain) if name.startswith("perception")] == []


def test_a_page_beside_a_graph_tells_all_that_it_publishes(start):
    port, misses = free_port(), []

    def complete(facts):
        front = facts["cameras"]["front"]
        misses.extend(front["misses"])
        known = objects(facts) and objects(facts)[0][4] != "class 1"  # before the names are there
        told = misses and front["summary"]["frames_in"] > 9 and facts["safe_stop"]
        return bool(told and known and objects(facts)[0][7])

    with played() as graph:
        beside = start(f"view_port:={port}", command="view")
        hurried(beside)
        facts, jpeg = looked(port, complete)
        beside.until(lambda: graph.annotated and graph.annotations)
        beside.signal(signal.SIGINT)
        assert beside.end() == 130
    front = facts["cameras"]["front"]
    assert pixels(jpeg).shape == (100, 160, 3) and abs(float(pixels(jpeg).mean()) - GREY) < 3
    ((*box, name, score, _, track),) = objects(facts)
    assert box == [0.25, 0.25, 0.5, 0.75] and (name, score, track) == ("kart", 0.75, "42")
    miss = misses[-1]
    assert (miss["status"], miss["reason"], miss["ms"]) == (FrameStatus.LATE, "too slow", 15.0)
    assert (front["health"]["mode"], front["health"]["cause"]) == ("UNSAFE", "a cause")
    assert facts["cameras"]["front"]["summary"]["latency_ms"]["p50"] == 5.0
    drawn = graph.annotated[-1]
    assert (drawn.format, drawn.header.frame_id) == ("jpeg", "camera")
    assert pixels(bytes(drawn.data)).shape == (100, 160, 3)
    assert pixels(bytes(drawn.data)).std() > pixels(jpeg).std() + 5  # boxes are in it
    over = graph.annotations[-1]
    corners = [(corner.x, corner.y) for corner in over.points[0].points]
    assert (corners[0], corners[2]) == (BOX[:2], BOX[2:])
    assert over.texts[0].text == "kart 0.75"
    assert over.texts[0].timestamp == over.points[0].timestamp != Time()
