"""Serves the page on one port: its files, a stream of updates, the pictures of missed frames.

A browser asks for the next update when it has drawn the last one. So at most one is on its way: a
slow browser gets fewer, and nothing queues up. A page that is not visible does not ask.
"""

import asyncio
import json
import logging
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent import futures
from contextlib import suppress
from pathlib import Path

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.http import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from perception_nodes import report
from perception_nodes.core.errors import PerceptionError
from perception_nodes.graph.page import MIN_TOKEN, TOKEN_VARIABLE
from perception_nodes.view import access
from perception_nodes.view.feed import Feed

FOLDERS = (Path(__file__).parent / "page", Path(report.__file__).parent / "assets")
SUFFIXES = ".html", ".css", ".js", ".svg"
MAX_BROWSERS = 16
MAX_CONNECTIONS = 64
"""Connections that were let in; a browser that loads the page has up to six beside its stream."""
MAX_STRANGERS = 32
"""Connections that were not let in yet. The longest-waiting one of the address that has the most
gives way to a new one, so that nobody can take all places by being slow."""
SILENCE_S = 5.0
"""A connection is closed if it sends no whole request for so long."""
HEARTBEAT_S = 10.0
"""A browser is gone if it does not take an update in this time, or answer a ping in half of it."""
LOOKING_S = 3.0
"""Nobody looks at a browser that has not asked for an update for so long."""
MAX_QUESTION_BYTES = 64
CLOSING_S = 1.0
"""How long to wait for browsers in each step of closing the page."""
MAX_CLOSING_S = 4 * CLOSING_S
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def listening(address: str, port: int) -> socket.socket:
    """The socket to serve the page on.

    Args:
        address: name or number of an interface.
        port: of the interface.

    Raises:
        PerceptionError: the port is taken, or the address is unknown or none of this machine.
    """
    # Some machines have no IPv6, and every browser tries both.
    host = "127.0.0.1" if address == access.LOCALHOST else address
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # the latter where no name can be like that
        why = getattr(error, "strerror", None) or error
        raise PerceptionError(
            f"parameter view_address: {host!r} is not known ({why}); give a name or number of "
            "this machine"
        ) from error
    try:
        return socket.create_server(place, family=family)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error.strerror
        raise PerceptionError(
            f"parameter view_port: {port} of {host} cannot be served on ({why}); give another "
            "port, or an address of this machine as view_address"
        ) from error


class PageServer:
    """Serves the page in a thread of its own."""

    def __init__(self, feed: Feed, address: str, port: int, token: str, rate_hz: float) -> None:
        """Nothing is served yet.

        Args:
            feed: what is shown.
            address: interface to serve on.
            port: of the interface.
            token: that a browser needs; empty: none, on localhost.
            rate_hz: updates a second for each browser, at most.

        Raises:
            PerceptionError: others can reach the address, and the token is too short for that.
        """
        if address != access.LOCALHOST and len(token) < MIN_TOKEN:
            raise PerceptionError(
                f"parameter view_address: {address!r} needs a token of at least {MIN_TOKEN} "
                f"characters in ${TOKEN_VARIABLE}"
            )
        self._feed, self._token = feed, token
        self._cookie = access.cookie_of(token)
        self._address, self._port = address, port
        self._interval_s = 1 / rate_hz
        self._asked_s = -LOOKING_S
        self._streams: dict[web.WebSocketResponse, asyncio.Transport | None] = {}
        self._strangers: dict[RequestHandler, None] = {}
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        files = (file for folder in FOLDERS for file in folder.iterdir())
        self._files = {file.name: file for file in files if file.suffix in SUFFIXES}

    @property
    def is_looked_at(self) -> bool:
        """Whether a browser has asked for an update lately."""
        return time.monotonic() - self._asked_s < LOOKING_S

    @property
    def browsers(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def start(self) -> None:
        """Serve from now on.

        Raises:
            PerceptionError: the port is taken, or the address is none of this machine.
        """
        logging.getLogger("aiohttp.server").addFilter(_is_our_fault)
        app = web.Application(middlewares=[self._checked])
        app.on_response_prepare.append(_secure)
        app.router.add_get("/stream", self._stream)
        app.router.add_get(r"/missed/{serial:\d{1,15}}.jpg", self._missed)
        app.router.add_get(r"/frame/{camera}/{sequence:\d{1,20}}.json", self._frame)
        app.router.add_get("/{name:[^/]*}", self._file)
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=CLOSING_S, keepalive_timeout=SILENCE_S
        )
        self._runner = runner
        self._loop.run_until_complete(runner.setup())
        try:
            door = listening(self._address, self._port)
        except PerceptionError:
            self._loop.run_until_complete(runner.cleanup())
            raise
        opening = self._loop.create_server(self._connected, sock=door)
        self._door = self._loop.run_until_complete(opening)
        self._thread = threading.Thread(target=self._loop.run_forever, name="page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close all streams and the port, whatever the browsers do."""
        if self._thread is not None:
            with suppress(futures.TimeoutError):
                asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(MAX_CLOSING_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._thread = None
        self._loop.close()

    def _connected(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        server = self._runner.server
        assert server is not None
        stranger = server()
        self._loop.call_later(0, self._meet, stranger)  # in the next turn it is connected
        return stranger

    def _meet(self, stranger: RequestHandler) -> None:
        """Make room for a new connection."""
        strangers = [one for one in (*self._strangers, stranger) if one.transport is not None]
        if len(strangers) > MAX_STRANGERS:
            ((busiest, _),) = Counter(map(_address_of, strangers)).most_common(1)
            oldest = next(one for one in strangers if _address_of(one) == busiest)
            strangers.remove(oldest)
            oldest.force_close()
        self._strangers = dict.fromkeys(strangers)

    def _let_in(self, stranger: RequestHandler) -> None:
        server = self._runner.server
        assert server is not None
        if sum(one not in self._strangers for one in server.connections) >= MAX_CONNECTIONS:
            raise web.HTTPServiceUnavailable(text="Too many connections.\n")
        del self._strangers[stranger]

    async def _close(self) -> None:
        self._door.close()
        streams = dict(self._streams)
        farewells = [stream.close(code=WSCloseCode.GOING_AWAY) for stream in streams]
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*farewells, return_exceptions=True), CLOSING_S)
        for transport in streams.values():
            if transport is not None:
                transport.abort()
        await self._runner.cleanup()

    @web.middleware
    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not access.is_own_host(request.headers.get("Host", ""), self._address):
            raise web.HTTPForbidden(text="This page is not served under that name.\n")
        if self._token:
            given = request.query.get("token")
            kept = request.cookies.get(self._cookie)
            if not any(access.is_same(text, self._token) for text in (kept, given)):
                remedy = f"Add ?token=... with the value of ${TOKEN_VARIABLE}.\n"
                raise web.HTTPUnauthorized(text=remedy)
            if given is not None:
                # The token shall stay neither in the history nor on the screen.
                answer = web.HTTPSeeOther("/")
                # Not Strict: a link on another site would lead here without it. Our answers change
                # nothing, and the stream is for our own page.
                answer.set_cookie(self._cookie, self._token, httponly=True, samesite="Lax")
                raise answer
        if request.protocol in self._strangers:
            self._let_in(request.protocol)
        return await handler(request)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        # A name from outside is no path: it may have a coded slash.
        if (file := self._files.get(request.match_info["name"] or "index.html")) is None:
            raise web.HTTPNotFound(text="There is no such page.\n")
        return web.FileResponse(file)

    async def _missed(self, request: web.Request) -> web.Response:
        if (jpeg := self._feed.missed_picture(int(request.match_info["serial"]))) is None:
            raise web.HTTPNotFound(text="No picture of this frame is kept any more.\n")
        return web.Response(body=jpeg, content_type="image/jpeg")

    async def _frame(self, request: web.Request) -> web.Response:
        camera, sequence = (request.match_info[name] for name in ("camera", "sequence"))
        if (facts := self._feed.frame_facts(camera, int(sequence))) is None:
            raise web.HTTPNotFound(text="This frame is not known any more.\n")
        return web.json_response(facts)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if not access.is_own_page(request.headers):
            raise web.HTTPForbidden(text="The stream is for our own page.\n")
        if self.browsers >= MAX_BROWSERS:
            raise web.HTTPServiceUnavailable(text="Too many browsers look at this page.\n")
        stream = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S,
            max_msg_size=MAX_QUESTION_BYTES,
            compress=False,
            timeout=CLOSING_S,
        )
        self._streams[stream] = request.transport
        try:
            await stream.prepare(request)
            await stream.send_json({"setup": self._feed.setup})
            cursor, sent_s = 0, 0.0
            async for message in stream:
                if message.type != WSMsgType.TEXT:
                    break
                await asyncio.sleep(sent_s + self._interval_s - time.monotonic())
                self._asked_s = sent_s = time.monotonic()
                update, pictures, cursor = self._feed.update(cursor)
                facts = json.dumps(update, separators=(",", ":")).encode()
                answer = b"".join((struct.pack("<I", len(facts)), facts, *pictures))
                await asyncio.wait_for(stream.send_bytes(answer), HEARTBEAT_S)
        except ConnectionError:
            pass  # it has closed while we sent
        except asyncio.TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # it asks and does not read
        finally:
            del self._streams[stream]
        return stream


def _address_of(connection: RequestHandler) -> str:
    return str((connection.peername or [""])[0])


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Leave out requests that are no HTTP; otherwise anyone could fill the node's log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


async def _secure(_: web.Request, answer: web.StreamResponse) -> None:
    answer.headers.update(access.HEADERS)
