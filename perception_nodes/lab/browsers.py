"""Browsers that look at the page of a graph while it is measured."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import aiohttp

from perception_nodes.system.children import end, start
from perception_nodes.system.realtime import give_way

AGAIN_S = 0.1
STOP_S = 10


@contextmanager
def browsers(count: int, port: int) -> Iterator[list[int]]:
    """Start processes that ask for updates as a page does; give a list of how many each got.

    They draw nothing and run only when a processor is idle, since browsers run on other machines.
    The list is filled when the context ends.
    """
    updates: list[int] = []
    command = [sys.executable, "-m", __name__, f"http://localhost:{port}"]
    running = [start(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        yield updates
    finally:
        for process in running:
            process.terminate()
        updates += [int(end(process, STOP_S) or 0) for process in running]


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _look(url: str) -> None:
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


if __name__ == "__main__":
    give_way(os.getpid())
    asyncio.run(_look(sys.argv[1]))
