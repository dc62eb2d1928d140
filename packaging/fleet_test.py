"""Tests replays on a cluster of several machines with an object store: `make fleet-test`, as root.

The machines are namespaces of this one, the cluster is Ray's, and the store is OpenStack Swift with
its S3 interface. Parts: `fleet_machines.py`, `fleet_store.py`, `fleet_drives.py`,
`fleet_cluster.py`.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fleet_cluster import BUCKET, TASK, Fleet
from fleet_drives import LONG, NAMES
from fleet_machines import ROOT, Failed, enter, inside, wait_until
from fleet_store import PYTHON, Fault
from obstore.exceptions import BaseError

SHORT = [name for name in NAMES if name != LONG]
SLOW = Fault("slow", f"GET /{BUCKET}/drives/{LONG}")
CUT_S = 40


def formats(fleet: Fleet) -> str:
    """Three formats and a longer drive give what they give from local files."""
    return fleet.replay("formats", *NAMES).check(*NAMES)


def killed(fleet: Fleet) -> str:
    """A task is killed in the midst of a drive: done again, counted once."""
    fleet.proxy.faults = [SLOW]
    run = fleet.begin("killed", *NAMES)
    machine = run.reader_of(LONG)
    if not machine.kill(TASK):
        raise Failed("there was no task to kill")
    fleet.proxy.faults = []
    run.end(0)
    return run.check(*NAMES)


def shared(fleet: Fleet) -> str:
    """Both workers share the frames of one drive; a task of each is killed: as one process does."""
    run = fleet.begin("shared", LONG)
    for worker in fleet.workers:
        wait_until(partial(worker.kill, TASK), 60, "it has a task to kill")
    run.end(0)
    drive = f"GET /{BUCKET}/drives/{LONG}"
    readers = {client for _, client, what in fleet.proxy.requests if what == drive}
    if readers != {fleet.head.address}:
        raise Failed(f"{', '.join(readers)} read the drive, not the command alone")
    return run.check(LONG)


def cut(fleet: Fleet) -> str:
    """A worker's network is cut for a while: its drive is done elsewhere, counted once."""
    fleet.proxy.faults = [SLOW]
    run = fleet.begin("cut", *NAMES)
    machine = run.reader_of(LONG)
    machine.connect(False)
    time.sleep(CUT_S)
    machine.connect(True)
    run.end(0)
    # Ray ends what it has given up, as soon as the machine can be told.
    wait_until(lambda: not machine.processes("raylet/raylet"), 60, "the lost machine leaves")
    fleet.stop(machine)
    fleet.start_worker(machine)
    return run.check(*NAMES)


def faulty_store(fleet: Fleet) -> str:
    """The store answers 500, breaks off in bodies, and is slow: repeated, and nothing is half."""
    fleet.replay("clean", *NAMES)
    clean = len(fleet.proxy.requests)
    faults = [Fault("error", ".", 5), Fault("short", "(GET|PUT) ", 7), Fault("slow", "GET ", 2)]
    fleet.proxy.faults = faults
    run = fleet.replay("faulty", *NAMES)
    requests = len(fleet.proxy.requests)
    fleet.proxy.faults = []
    if requests > 2 * clean:
        raise Failed(f"{requests} requests instead of {clean} without faults")
    return f"{requests} requests instead of {clean}; {run.check(*NAMES)}"


def bad_drives(fleet: Fleet) -> str:
    """Drives that cannot be read or written are named with the reason; the others are done."""
    fleet.store.put("drives/garbage.mcap", os.urandom(10_000))
    fleet.proxy.faults = [Fault("error", f"PUT /{BUCKET}/runs/bad/folder/")]
    run = fleet.replay("bad", *SHORT, "missing.mcap", "garbage.mcap", status=2)
    fleet.proxy.faults = []
    failed = run.summary()["failed"]
    reasons = {"missing": "does not exist", "garbage": "not", "folder": "500"}
    for drive, reason in reasons.items():
        if reason not in failed.get(drive, "") or f"{drive} could not" not in run.text():
            raise Failed(f"{drive} is not named with '{reason}': {failed}")
    return run.check(*(name for name in SHORT if name != "folder"))


def other_code(fleet: Fleet) -> str:
    """A machine with another version of the code is refused; both hashes are named."""
    machine = fleet.workers[1]
    other = machine.path("/tmp/other")
    shutil.copytree(ROOT / "perception_nodes", other / "perception_nodes")
    for name in ("interfaces", "models"):
        (other / name).symlink_to(ROOT / name)
    with (other / "perception_nodes/core/budget.py").open("a", encoding="utf-8") as file:
        file.write("# one line more\n")
    fleet.stop(machine)
    fleet.start_worker(machine, PYTHONPATH="/tmp/other")
    try:
        run = fleet.replay("other", *NAMES, status=2)
    finally:
        fleet.stop(machine)
        fleet.start_worker(machine)
    hashes = set(re.findall(r"\b[0-9a-f]{64}\b", run.text()))
    if len(hashes) != 2 or machine.name not in run.text():
        raise Failed(f"names {len(hashes)} hashes: {run.text()[-300:]}")
    return run.text().strip().splitlines()[-1]


def head_restarted(fleet: Fleet) -> str:
    """The head is killed and started again: one clear line; a second run does what is missing."""
    fleet.proxy.faults = [SLOW]
    run = fleet.begin("restarted", *NAMES)
    wait_until(lambda: len(run.done()) == len(SHORT), 60, "the short drives are done")
    run.reader_of(LONG)
    before = run.done()
    fleet.stop(fleet.head)
    time.sleep(5)
    fleet.stop(*fleet.workers)
    fleet.start()
    run.end(2)
    said = run.text().strip().splitlines()[-1]
    if "cluster is lost" not in said:
        raise Failed(f"says: {said}")
    fleet.proxy.faults = []
    again = fleet.replay("restarted", *NAMES)
    read = {what for _, _, what in fleet.proxy.requests if f"GET /{BUCKET}/drives/" in what}
    if read != {f"GET /{BUCKET}/drives/{LONG}"} or not before.items() <= again.done().items():
        raise Failed(f"the second run did again what was done: {read}")
    return f"'{said}'; the second run: {again.check(*NAMES)}"


def no_secret(fleet: Fleet) -> str:
    """The secret of the store's user is in no log and in no result."""
    fleet.keep_logs()
    inside = [str(one.path("/tmp")) for one in (fleet.head, *fleet.workers)]
    words = ["grep", "-rlaF", "--devices=skip", "-e", fleet.secret, str(fleet.out), *inside]
    found = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False).stdout.split()
    names = fleet.objects("")
    found += [name for name in names if fleet.secret.encode() in fleet.read(name)]
    if found:
        raise Failed(f"in {', '.join(found)}")
    return f"{len(names)} objects, and all files of {len(inside)} machines"


CHECKS: tuple[Callable[[Fleet], str], ...] = (
    formats,
    killed,
    shared,
    cut,
    faulty_store,
    bad_drives,
    other_code,
    head_restarted,
    no_secret,
)


def lacking() -> str:
    """What this machine lacks and how to get it; empty if nothing."""
    if os.geteuid():
        return f"root is needed, this is user {os.geteuid()}"
    swift = subprocess.run([PYTHON, "-c", "import swift"], capture_output=True, check=False)
    if swift.returncode or not shutil.which("ip"):
        return "make fleet-packages installs what is missing on Debian: Swift and iproute2"
    return ""


def main() -> int:
    """Make machines, store and cluster, and run the checks; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out/fleet-test", help="gets the logs")
    parser.add_argument("--only", nargs="+", default=[], help="names of checks")
    parser.add_argument("--minutes", type=int, default=15, help="ends what takes longer in all")
    arguments = parser.parse_args()
    checks = [one for one in CHECKS if not arguments.only or one.__name__ in arguments.only]
    if lack := lacking():
        print(f"fleet_test: {lack}", file=sys.stderr)
        return 2
    if not inside():
        enter()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # process 1 has no defaults
        signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGALRM, over)
    signal.alarm(60 * arguments.minutes)
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    begin_s = time.monotonic()
    try:
        fleet = Fleet(arguments.out.resolve())
        print(f"three machines, a store and a cluster are made, in {seconds(begin_s)} s")
        failed = [one.__name__ for one in checks if not passes(one, fleet)]
    except (Failed, OSError, subprocess.SubprocessError, BaseError) as failure:
        print(f"fleet_test: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fleet_test: interrupted; no process, network or mount is left", file=sys.stderr)
        return 130
    print(f"{len(checks) - len(failed)} of {len(checks)} passed, in {seconds(begin_s)} s")
    return int(bool(failed))


def passes(check: Callable[[Fleet], str], fleet: Fleet) -> bool:
    """Run a check, and print what was seen."""
    begin_s = time.monotonic()
    try:
        word, seen = "ok", check(fleet)
    except (Failed, OSError, BaseError, KeyError, ValueError) as failure:
        word, seen = "FAILED", f"{type(failure).__name__}: {failure}; logs in {fleet.out}"
    fleet.proxy.faults = []
    print(f"{word} {check.__name__}, in {seconds(begin_s)} s: {check.__doc__}")
    print(f"   {seen}", flush=True)
    return word == "ok"


def over(*_: object) -> None:
    """End the test."""
    raise TimeoutError("the time is over (--minutes)")


def seconds(begin_s: float) -> int:
    """Whole seconds since an instant."""
    return round(time.monotonic() - begin_s)


if __name__ == "__main__":
    sys.exit(main())
