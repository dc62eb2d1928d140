"""`perception camera`: copy a camera, stream or file into shared memory, or list the cameras."""

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from perception_nodes.cameras.camera_feed import CameraFeed
from perception_nodes.cameras.camera_source import CameraEnded
from perception_nodes.cameras.source_for import FORMS
from perception_nodes.cameras.v4l2_devices import list_devices
from perception_nodes.cameras.v4l2_kernel import letters
from perception_nodes.cli import options
from perception_nodes.cli.common import say, screen
from perception_nodes.graph.config import CameraSettings
from perception_nodes.graph.settings import SettingsError, check
from perception_nodes.system.realtime import MAX_PRIORITY, RANKS, RealTime
from perception_nodes.transport.shm import Endpoint

STEP_MS = 50.0
LONGEST_S = 3.0
"""How long a thread may compute without a pause."""


def camera_command(
    source: Annotated[str, typer.Argument(help=f"{FORMS}.")] = "",
    name: str = "front",
    frame_id: str = "",
    size: str = "",
    rate: Annotated[float, typer.Option(min=0, max=1000)] = 0.0,
    pixel_format: Annotated[str, typer.Option("--format")] = "",
    camera_input: Annotated[int, typer.Option("--input", min=-1)] = -1,
    controls: str = "",
    rtsp_transport: str = "tcp",
    fifo: Annotated[int, typer.Option(min=-1, max=MAX_PRIORITY)] = -1,
    loop: bool = False,
    frames: Annotated[int, typer.Option(min=0)] = 0,
    show: Annotated[bool, typer.Option("--list")] = False,
    as_json: options.Json = False,
) -> None:
    """Fill a camera's shared-memory channel, which `perception run source:=shm` reads.

    `perception run source:=SOURCE` does this by itself, in a process of the graph.
    Frames of a v4l2 device are written by its driver where preprocessing reads them: no copy.
    A device that is unplugged is opened again when it is back.

    Options:
        name: Name of the camera in the graph.
        frame_id: frame_id of its images; the name if empty.
        size: WIDTHxHEIGHT; only for v4l2: sources.
        rate: Frames a second; only for v4l2: sources.
        pixel_format: Four letters of the kernel, such as NV12; only for v4l2: sources.
        camera_input: Number of the device's input; -1: as it is; only for v4l2: sources.
        controls: NAME=VALUE,... such as gain=20, by the names of --list; only for v4l2: sources.
        rtsp_transport: What the packets of an RTSP camera come by, tcp or udp.
        fifo: The graph's fifo_priority; a v4l2 device is read at 3 more. -1: as much as the system
            allows; 0: no real time.
        loop: Begin a file anew at its end.
        frames: Stop after so many; 0: until Ctrl-C.
        show: List devices and what they offer.

    Example: perception camera v4l2:/dev/video0 --size 1280x720 --rate 30

    Example: perception camera drive.mp4 --loop --name rear
    """
    if show:
        return _list(as_json)
    if not source:
        raise SettingsError(f"name a source: {FORMS}; --list shows devices")
    settings = check(
        CameraSettings,
        {
            "camera": name,
            "source": source,
            "frame_id": frame_id or name,
            "frame_size": size,
            "frame_rate": rate,
            "pixel_format": pixel_format,
            "camera_input": camera_input,
            "controls": controls,
            "rtsp_transport": rtsp_transport,
            "loop": loop,
        },
    )
    camera = settings.open_source()
    realtime = RealTime()
    endpoint = Endpoint(f"camera_{name}")
    feed = CameraFeed(endpoint, name, camera, settings.frame_id, say)
    try:
        feed.open()
        feed.start()
        # Decoding a video takes long, and must not get the processor before the inference does.
        rank = RANKS["camera"] if source.startswith("v4l2:") else None
        for line in realtime.begin("", fifo, rank, False, LONGEST_S):
            say(line)
        shown_s, shown_sent = time.monotonic(), 0
        with screen.status("waiting for a frame") as status:
            while not frames or feed.sent < frames:
                feed.step(STEP_MS)
                realtime.keep()
                passed_s = time.monotonic() - shown_s
                if passed_s >= 1:
                    rate_hz = (feed.sent - shown_sent) / passed_s
                    status.update(f"{feed.sent} frames, {rate_hz:.1f} a second, {feed.lost} lost")
                    shown_s, shown_sent = time.monotonic(), feed.sent
    except CameraEnded as ended:
        say(f"camera {name}: {ended}")
    finally:
        feed.close()
        endpoint.close()
        say(f"camera {name}: {feed.sent} frames sent, {feed.lost} lost by the source")


def _list(as_json: bool) -> None:
    devices = list_devices()
    if as_json:
        print(json.dumps([asdict(device) for device in devices], indent=2, default=letters))
        return
    if not devices:
        screen.print("no capture device is there (/dev/video*)")
    for device in devices:
        rates: dict[tuple[str, str], list[float]] = {}
        for mode in device.modes:
            rates.setdefault((letters(mode.code), mode.offered), []).append(mode.rate_hz)
        about = escape(f"{device.path}: {device.name}")
        table = Table("format", "size", "frames a second", title=about)
        for (code, size), of_mode in rates.items():
            table.add_row(code, size, ", ".join(f"{rate:g}" for rate in sorted(set(of_mode))))
        Console().print(table)
        controls = [f"{c.name} {c.minimum}..{c.maximum} ({c.default})" for c in device.controls]
        print("controls: " + (", ".join(controls) or "none"))
