"""Browsers that look at the page of a graph while it is measured."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import aiohttp

from perception_nodes.system.environment import die_with_parent
from perception_nodes.system.realtime import give_way

AGAIN_S = 0.1
STOP_S = 10


class Browsers:
    """Processes that ask for updates as a page does; a context manager that ends them.

    They draw nothing and run when a processor is idle: a browser is meant to be on another machine.

    Attributes:
        updates: how many all of them got, when they have ended.
    """

    def __init__(self, count: int, port: int) -> None:
        self._count, self._port = count, port
        self._running: list[subprocess.Popen[bytes]] = []
        self.updates = 0

    def __enter__(self) -> "Browsers":
        """Start them; they wait for the page."""
        command = [sys.executable, "-m", __name__, f"http://localhost:{self._port}"]
        us = os.getpid()
        for _ in range(self._count):
            self._running.append(
                subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                    preexec_fn=lambda: die_with_parent(us),
                )
            )
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        for process in self._running:
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                self.updates += int(process.communicate(timeout=STOP_S)[0] or 0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _look(url: str) -> None:
    updates, stopped = 0, asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    async def looking() -> Any:
        nonlocal updates
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    stream = session.ws_connect(f"{url}/stream", headers={"Origin": url})
                    async with stream as page:
                        await page.receive()
                        while not page.closed:
                            await page.send_str("next")
                            updates += (await page.receive()).type == aiohttp.WSMsgType.BINARY
                except (aiohttp.ClientError, ConnectionError):
                    pass
                await asyncio.sleep(AGAIN_S)

    task = asyncio.create_task(looking())
    await stopped.wait()
    task.cancel()
    print(updates, flush=True)


if __name__ == "__main__":
    give_way(os.getpid())
    asyncio.run(_look(sys.argv[1]))
