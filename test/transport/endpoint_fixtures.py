"""Fixtures: endpoints in a domain of the test's own, in this process and in others."""

import os
import subprocess
import sys
from contextlib import ExitStack, closing

import pytest
from channel_ends import DOMAINS, TIMEOUT_S, remains

from perception_nodes.transport.remains import sweep
from perception_nodes.transport.shm import Endpoint


@pytest.fixture
def domain():
    """A domain of the test's own, in which no file may be left."""
    number = next(DOMAINS)
    yield number
    sweep(number)
    assert remains(number) == []


@pytest.fixture
def ros_domain(domain, monkeypatch):
    """The same, for what takes its domain from ROS."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))


@pytest.fixture
def closed(domain):
    """Closes in the end what it is given, the last one first; nothing of it may be left then."""
    with ExitStack() as stack:
        yield lambda opened: stack.enter_context(closing(opened))


@pytest.fixture
def join(domain, closed):
    """Opens endpoints in the test's domain, which are closed in the end."""
    return lambda name="test": closed(Endpoint(name, domain))


@pytest.fixture
def python(root):
    """Starts Python in other processes, which communicate by lines of text."""
    started = []

    def start_python(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
            text=True,
        )
        started.append(process)
        return process

    yield start_python
    for process in started:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)


@pytest.fixture
def start(domain, python):
    """Starts Python with an endpoint in the test's domain."""

    def start_endpoint(body):
        code = f"""
import ctypes, sys
from perception_nodes.core.frame import FrameRecord
from perception_nodes.transport import channels
from perception_nodes.transport.shm import Endpoint
class Number(ctypes.Structure):
    _fields_ = [("number", ctypes.c_uint64), ("text", ctypes.c_char * 16)]
def say(text): print(text, flush=True)
def told(): return sys.stdin.readline().strip()
endpoint = Endpoint("other", {domain})
{body}
endpoint.close()
say("closed")
"""
        return python(code)

    return start_endpoint
