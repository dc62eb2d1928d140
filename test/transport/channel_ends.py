"""Both ends of a channel, in this process or another, and the files they leave in shared memory."""

import ctypes
import itertools
import os

import numpy as np

from perception_nodes.transport.memory import SHM_FOLDER

TIMEOUT_S = 300.0
DOMAINS = itertools.count(1000 * os.getpid())


class Number(ctypes.Structure):
    """A header with a number and a text."""

    _fields_ = [("number", ctypes.c_uint64), ("text", ctypes.c_char * 16)]


def heard(process):
    return process.stdout.readline().strip()


def tell(process, text):
    process.stdin.write(text + "\n")
    process.stdin.flush()


def kill(process):
    process.kill()
    process.wait(TIMEOUT_S)


def remains(domain):
    """Files left of a domain, in shared memory and in iceoryx2's folder of services."""
    ours = f"perception{domain}_", f"perception_domain{domain}.", f"perception_graph{domain}_"
    # Unlike a glob, a walk bears that other processes remove folders meanwhile.
    return [
        os.path.join(folder, name)
        for top in (SHM_FOLDER, "/tmp/iceoryx2")
        for folder, *names in os.walk(top)
        for name in itertools.chain(*names)
        if any(part in name for part in ours)
    ]


def held(domain):
    """The same without the list of processes and the lock, which only a sweep removes."""
    return [name for name in remains(domain) if not name.endswith((".global_mgmt", ".lock"))]


def pages(domain):
    """Allocated pages of the files in shared memory that hold samples."""
    files = SHM_FOLDER.glob(f"perception{domain}_*.data")
    return {path.name: path.stat().st_blocks for path in files}


def send(writer, number, payload=b""):
    sample = writer.loan(len(payload))
    sample.header.number = number
    sample.payload[:] = np.frombuffer(payload, np.uint8)
    writer.send(sample)


def ends_of(endpoint, size=8, depth=2):
    """The writer and a reader of one channel."""
    return endpoint.writer("c", Number, size, depth), endpoint.reader("c", Number, depth)


def numbers(reader):
    return [header.number for header in reader.records()]
