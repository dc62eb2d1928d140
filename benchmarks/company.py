"""What a recorder, or browsers that look at the page, cost the graph, in turns with it alone.

    .venv/bin/python benchmarks/company.py recorder --frames 1800 --rounds 3
    .venv/bin/python benchmarks/company.py browsers --count 2 --frames 1800 --rounds 3

Frames arrive through shared memory; for a recorder they are republished over DDS. Browsers draw
nothing and run only when a processor is idle, since they run on other machines.
"""

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import aiohttp
from rich.console import Console

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.core.budget import DEADLINE_MS
from perception_nodes.graph.config import PreprocessSettings
from perception_nodes.graph.graph import LIVE, PLAYER, REPUBLISH, Graph
from perception_nodes.lab import bench
from perception_nodes.lab.graphs import MEASURED, RECEIVER
from perception_nodes.lab.run import Run
from perception_nodes.networks.model import load_model
from perception_nodes.report.account import account
from perception_nodes.report.figures import figure_table
from perception_nodes.system.children import end, start
from perception_nodes.system.environment import ros_environment
from perception_nodes.system.realtime import give_way

AGAIN_S = 0.1
RANKS = ("p50", "p99", "p99_9", "max")
REPUBLISHED = Graph((RECEIVER, *LIVE.kinds, REPUBLISH, PLAYER))


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def browse(url: str) -> None:
    """Ask for updates as a page does, until SIGTERM; then print how many came."""
    updates, stopped = 0, asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    async def looking() -> None:
        nonlocal updates
        async with aiohttp.ClientSession() as session:
            while True:
                with suppress(aiohttp.ClientError, ConnectionError):
                    async with session.ws_connect(f"{url}/stream", headers={"Origin": url}) as page:
                        await page.receive()
                        while not page.closed:
                            await page.send_str("next")
                            updates += (await page.receive()).type == aiohttp.WSMsgType.BINARY
                await asyncio.sleep(AGAIN_S)

    task = asyncio.create_task(looking())
    await stopped.wait()
    task.cancel()
    print(updates, flush=True)


def record(topic: str) -> None:
    """Take images from DDS as `ros2 bag record` does, until SIGTERM; then print how many came."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    from sensor_msgs.msg import Image

    images, stopped = 0, threading.Event()

    def count(_: bytes) -> None:
        nonlocal images
        images += 1

    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("recorder")
    node.create_subscription(Image, topic, count, 10, raw=True)
    while not stopped.is_set():
        rclpy.spin_once(node, timeout_sec=AGAIN_S)
    rclpy.shutdown()
    print(images, flush=True)


def play(run: Run, graph: Graph, setup: bench.BenchSetup, frames: int, **more: object) -> None:
    """Play a round of a drive to the graph."""
    values = {"source": "shm", "listeners": 0, "deadline_ms": setup.deadline_ms}
    values |= {"bag": setup.drive(frames), **setup.inference(), **more}
    with tempfile.TemporaryDirectory(prefix="perception_bench_") as folder:
        bench.play(run, graph, values, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", choices=("recorder", "browsers"))
    parser.add_argument("--count", type=int, default=1, help="how many of them")
    parser.add_argument("--frames", type=int, default=600, help="in all rounds together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--model", default="open-n")
    given = parser.parse_args()
    backend = runtime_for(AUTO, load_model(given.model))
    setup = bench.BenchSetup(given.frames, given.size, 30.0, given.model, backend, 0, DEADLINE_MS)
    frames = -(-given.frames // given.rounds) + bench.WARM_UP_FRAMES
    alone, beside, taken = Run(), Run(), 0
    for number in range(1, given.rounds + 1):
        print(f"round {number} of {given.rounds}", file=sys.stderr)
        play(alone, MEASURED, setup, frames)
        port = free_port()
        where = f"http://localhost:{port}"
        graph, more = MEASURED, {"view": True, "view_port": port}
        if given.who == "recorder":
            where = PreprocessSettings().image_topic
            graph, more = REPUBLISHED, {"republish": True}
        command, environment = [sys.executable, __file__, given.who, where], ros_environment(True)
        running = [start(command, environment, stdout=subprocess.PIPE) for _ in range(given.count)]
        try:
            play(beside, graph, setup, frames, **more)
        finally:
            taken += sum(int(end(process) or 0) for process in running)
    table = figure_table([""], [f"{rank} ms" for rank in RANKS])
    for name, run in (("alone", alone), (f"beside {given.count} {given.who}", beside)):
        found = account(run)
        table.add_row(name, *bench.latency_cells(found.latency_ms(), RANKS))
        print(name, dict(found.statuses))
    table.caption = f"{taken} images or updates reached them"
    Console().print(table)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "browsers" and sys.argv[2].startswith("http"):
        give_way(os.getpid())
        asyncio.run(browse(sys.argv[2]))
    elif len(sys.argv) == 3 and sys.argv[1] == "recorder" and sys.argv[2][0] != "-":
        record(sys.argv[2])
    else:
        main()
