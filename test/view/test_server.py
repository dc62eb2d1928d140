"""The server over real HTTP: who may look, slow browsers, many of them, an orderly end."""

import asyncio
import json
import os
import re
import socket as socket_module
import struct
import threading
import time
from contextlib import ExitStack, asynccontextmanager

import aiohttp
import pytest
from fake_graph import fed, picture, report, served
from observe import free_port

from perception_nodes.cli.graph import VIEW_ALONE, say_page
from perception_nodes.core.errors import PerceptionError
from perception_nodes.core.frame import FrameStatus
from perception_nodes.view import access
from perception_nodes.view import server as server_module
from perception_nodes.view.feed import Feed
from perception_nodes.view.server import MAX_CONNECTIONS, PageServer

TOKEN = "0123456789abcdef"
COOKIE = access.cookie_of(TOKEN).encode()
LARGE = picture()._replace(jpeg=bytes(16_000_000))
"""More than the kernel keeps for a socket."""
UPLOT = "https://github.com/leeoniya/uPlot"
"""In the comment that names its authors."""


def asked(port, act):
    """What comes of talking to the server as a browser does."""

    async def talk():
        jar = aiohttp.CookieJar(unsafe=True)  # of addresses, too, as browsers do
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            return await act(session, f"http://127.0.0.1:{port}")

    return asyncio.run(asyncio.wait_for(talk(), 60))


def status_of(port, path, **headers):
    async def act(session, url):
        async with session.get(url + path, headers=headers, allow_redirects=False) as answer:
            return answer.status

    return int(asked(port, act))


def stream(session, url):
    return session.ws_connect(f"{url}/stream", headers={"Origin": url}, max_msg_size=0)


@asynccontextmanager
async def deaf(session, url):
    """A stream that asks and does not read."""
    async with stream(session, url) as slow:
        await slow.receive_json()
        slow._response.connection.transport.pause_reading()
        for _ in range(20):
            await slow.send_str("next")
        yield slow
        if slow._response.connection is not None:
            slow._response.connection.transport.resume_reading()


def cursors_of(feed):
    """The cursors with which browsers ask from now on."""
    cursors, plain = [], feed.update
    feed.update = lambda cursor: (cursors.append(cursor), plain(cursor))[1]  # type: ignore[method-assign]
    return cursors


def parts(message):
    (size,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + size]), message[4 + size :]


async def update(socket):
    await socket.send_str("next")
    return parts(await socket.receive_bytes())


def test_a_page_gets_its_files_and_nothing_comes_from_elsewhere():
    async def act(session, url):
        for path in ("/", "/view.js", "/view.css", "/uplot.js", "/uplot.css", "/icon.svg"):
            async with session.get(url + path) as answer:
                assert answer.status == 200, path
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                addresses = set(re.findall(r"https?://[\w./]+", await answer.text()))
                assert addresses <= {"http://www.w3.org/2000/svg", UPLOT}, path
        outside = "/%2e%2e/feed.py", "/..%2fpage%2fview.js"
        for path in (*outside, "/nothing", "/uplot.LICENSE", "/missed/9.jpg"):
            async with session.get(url + path) as answer:
                assert answer.status == 404, path
                assert "Content-Security-Policy" in answer.headers

    with served() as (_, _, port):
        asked(port, act)


def test_a_browser_gets_the_setup_and_then_what_it_has_not_seen():
    async def act(session, url):
        async with stream(session, url) as socket:
            setup = (await socket.receive_json())["setup"]
            assert (setup["cameras"], setup["deadline_ms"]) == (["front"], 10.0)
            feed.frame("front", report(FrameStatus.LATE, 13.0), picture())
            facts, jpeg = await update(socket)
            front = facts["cameras"]["front"]
            assert len(front["frames"]) == 1 and jpeg == picture().jpeg
            assert front["picture"]["bytes"] == len(jpeg)
            async with session.get(f"{url}/missed/{front['misses'][0]['n']}.jpg") as kept:
                assert await kept.read() == jpeg
            facts, jpeg = await update(socket)
            assert facts["cameras"]["front"]["frames"] == [] and jpeg == b""

    with served() as (feed, server, port):
        assert not server.is_looked_at
        asked(port, act)
        assert server.is_looked_at


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "localhost.evil.example", "[x"]
)
def test_another_name_that_leads_here_is_refused(host):
    with served() as (_, _, port):
        assert status_of(port, "/", Host=host) in (400, 403)
        assert status_of(port, "/", Host="localhost:1234") == 200  # through a tunnel


def test_a_page_of_another_site_cannot_open_the_stream():
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "MDEyMzQ1Njc4OWFiY2RlZg=="
    with served() as (_, _, port):
        for origin in ("http://evil.example", f"http://localhost:{port}", "null", ""):
            assert status_of(port, "/stream", Origin=origin, **upgrade) == 403
        assert status_of(port, "/stream", Origin=f"http://127.0.0.1:{port}", **upgrade) == 101


def test_the_network_needs_the_token_which_becomes_a_cookie():
    async def act(session, url):
        for path in ("/", "/view.js", "/stream", "/missed/1.jpg", "/?token=", "/?token=0123"):
            async with session.get(url + path) as answer:
                assert answer.status == 401, path
        async with session.get(f"{url}/?token={TOKEN}") as answer:
            assert answer.status == 200 and str(answer.url) == f"{url}/"
            cookie = answer.history[0].headers["Set-Cookie"]
            assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
        for token in (TOKEN, "0123"):  # with the cookie, too, it is not to stay in the history
            async with session.get(f"{url}/?token={token}", allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, "/")
        async with stream(session, url) as socket:
            assert "setup" in await socket.receive_json()

    with served(token=TOKEN, address="0.0.0.0") as (_, _, port):
        asked(port, act)


def test_two_pages_on_one_host_do_not_take_each_others_place():
    async def act(session, url):
        second = f"http://127.0.0.1:{other_port}"
        for page, token in ((url, TOKEN), (second, TOKEN[::-1])):
            async with session.get(f"{page}/?token={token}") as answer:
                assert answer.status == 200
        for page in (url, second):
            async with session.get(page) as answer:
                assert answer.status == 200

    with served(token=TOKEN) as (_, _, port), served(token=TOKEN[::-1]) as (_, _, other_port):
        asked(port, act)


def test_the_network_is_never_served_without_a_token():
    feed = Feed(("front",), 10.0, 10.0)
    for token in ("", TOKEN[:-1]):
        with pytest.raises(PerceptionError, match="^parameter view_address: '0.0.0.0' needs"):
            PageServer(feed, "0.0.0.0", free_port(), token, 10.0)


def test_headers_that_are_no_text_or_no_address_are_refused():
    for given in ("\udcff", "?", TOKEN + "\udcff", None):
        assert not access.is_same(given, TOKEN)
    assert not access.is_same("?", "\udcff")
    assert not access.is_own_page({"Origin": "http://[::1", "Host": "localhost"})


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: %s=\xff\r\n\r\n" % COOKIE, b"401"),
        (b"GET /?token=\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET http://[x/ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"\xff\r\n\r\n", b"400"),
    ],
)
def test_a_bad_request_is_answered_and_not_logged(raw, status, caplog):
    with served(token=TOKEN, address="0.0.0.0") as (_, _, port):
        with socket_module.create_connection(("127.0.0.1", port), 20) as client:
            client.sendall(raw)
            assert client.recv(100).split()[1] == status
    assert not caplog.records


def test_names_that_can_only_be_ours():
    for host, address, expected in (
        ("localhost:80", "localhost", True),
        ("[::1]:80", "localhost", True),
        ("192.168.1.5", "localhost", False),
        ("192.168.1.5:80", "0.0.0.0", True),
        ("vehicle.lan", "vehicle.lan", True),
        ("evil.example", "0.0.0.0", False),
    ):
        assert access.is_own_host(host, address) is expected, (host, address)


def test_who_does_not_read_is_sent_one_update_and_no_more():
    async def act(session, url):
        async with deaf(session, url), stream(session, url) as quick:
            await quick.receive_json()
            for _ in range(3):
                feed.frame("front", report(), LARGE)
                assert len((await update(quick))[1]) == 16_000_000
            assert cursors.count(0) == 2 and len(cursors) == 4  # the slow one never came back

    with served() as (feed, _, port):
        cursors = cursors_of(feed)
        feed.frame("front", report(), LARGE)
        asked(port, act)


def test_who_never_reads_loses_its_place(monkeypatch):
    monkeypatch.setattr(server_module, "HEARTBEAT_S", 0.5)

    async def act(session, url):
        async with deaf(session, url):
            while server.browsers:  # `asked` gives up at some time
                await asyncio.sleep(0.01)

    with served() as (feed, server, port):
        feed.frame("front", report(), LARGE)
        asked(port, act)


def test_a_hundred_reconnections_leave_nothing():
    async def act(session, url):
        for number in range(100):
            async with stream(session, url) as socket:
                await socket.receive_json()
                await update(socket)
                if number % 3 == 0:  # as when a network is gone
                    socket._response.connection.transport.abort()
        while server.browsers:  # `asked` gives up at some time
            await asyncio.sleep(0.01)

    with served(rate_hz=1000.0) as (feed, server, port), fed(feed):
        asked(port, act)
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        asked(port, act)
        assert threading.active_count() == threads
        assert len(os.listdir("/proc/self/fd")) <= files + 2


def test_too_many_browsers_are_refused():
    async def act(session, url):
        open_now = [await stream(session, url) for _ in range(server_module.MAX_BROWSERS)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stream(session, url)
        assert refused.value.status == 503
        for socket in open_now:
            await socket.close()

    with served() as (_, _, port):
        asked(port, act)


def test_those_who_only_connect_keep_nobody_out(monkeypatch):
    monkeypatch.setattr(server_module, "SILENCE_S", 1000.0)
    with served(token=TOKEN) as (_, _, port), ExitStack() as held:
        for _ in range(3 * server_module.MAX_STRANGERS):
            slow = socket_module.create_connection(("127.0.0.1", port), 20)
            held.enter_context(slow).sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert status_of(port, "/") == 401
        assert status_of(port, f"/?token={TOKEN}") == 303


def test_too_many_connections_are_refused_until_some_have_gone(monkeypatch):
    monkeypatch.setattr(server_module, "SILENCE_S", 1000.0)
    with served() as (_, server, port):
        silent = []
        for _ in range(MAX_CONNECTIONS):
            silent.append(socket_module.create_connection(("127.0.0.1", port), 20))
            silent[-1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert silent[-1].recv(1) == b"H"
        assert status_of(port, "/") == 503
        silent.pop().close()
        assert server._runner.server is not None
        while len(server._runner.server.connections) >= MAX_CONNECTIONS:  # has its own timeout
            time.sleep(0.01)
        assert status_of(port, "/") == 200
        for one in silent:
            one.close()


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: local"])
def test_a_connection_without_a_request_is_closed(begun, monkeypatch):
    monkeypatch.setattr(server_module, "SILENCE_S", 0.05)
    with served() as (_, _, port):
        with socket_module.create_connection(("127.0.0.1", port), 20) as silent:
            silent.sendall(begun)
            assert silent.recv(1) == b""


def test_its_end_closes_all_streams_and_does_not_wait_for_who_does_not_read():
    async def act(session, url):
        async with deaf(session, url), deaf(session, url), stream(session, url) as socket:
            await socket.receive_json()
            while len(cursors) < 2:
                await asyncio.sleep(0.01)
            closing = threading.Thread(target=server.close, daemon=True)
            closing.start()
            ends = aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED
            assert (await socket.receive()).type in ends
            await asyncio.to_thread(closing.join, 5 * server_module.MAX_CLOSING_S)
            assert not closing.is_alive()

    with served() as (feed, server, port):
        cursors = cursors_of(feed)
        feed.frame("front", report(), LARGE)
        asked(port, act)
        assert not server.browsers
        server_module.listening("localhost", port).close()  # the port is free again


def test_a_port_that_is_taken_is_named_in_one_line():
    with served() as (feed, _, port):
        with pytest.raises(
            PerceptionError, match=f"^parameter view_port: {port} of 127.0.0.1 .*another"
        ):
            PageServer(feed, "localhost", port, "", 10.0).start()
        with pytest.raises(PerceptionError, match=f"^parameter view_port: {port} "):
            say_page(VIEW_ALONE.nodes({"view": "true", "view_port": port}))


@pytest.mark.parametrize("address", ["a..b", 64 * "a" + ".b", "there"])
def test_an_address_that_is_not_known_is_named(address, monkeypatch):
    def unknown(*_, **__):
        raise socket_module.gaierror(socket_module.EAI_NONAME, "Name or service not known")

    if address == "there":
        monkeypatch.setattr(socket_module, "getaddrinfo", unknown)
    with pytest.raises(PerceptionError, match=f"^parameter view_address: {address!r} is not known"):
        server_module.listening(address, 0)


def test_a_graph_goes_on_where_the_address_is_not_there(capsys, monkeypatch):
    monkeypatch.setenv("PERCEPTION_VIEW_TOKEN", 32 * "a")
    specs = VIEW_ALONE.nodes({"view": "true", "view_address": "203.0.113.1"})
    with pytest.raises(PerceptionError, match="address of this machine"):
        say_page(specs)
    say_page([*specs, *specs])
    assert "the graph runs without the page" in capsys.readouterr().err
