"""A Ray cluster of the machines of `fleet_test.py`, and the command that replays drives on it."""

import hashlib
import json
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

from fleet_drives import NAMES, write_drives
from fleet_machines import ROOT, Failed, Machine, make_network, wait_until
from fleet_store import KEY_ID, PORT, REGION, FaultyProxy, start_store
from obstore import sign
from obstore.store import S3Store

BIN = ROOT / ".venv/bin"
BUCKET = "fleet"
HEAD_PORT = 6379
LIMIT_S = 240
"""For one command."""
MARKER = "complete.json"
TASK = "ray::_ray_task"
HEALTH = {
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
"""A machine counts as lost after 16 s. By default it does after a minute, but connections end after
20 s: a cut in between goes unnoticed for five minutes."""
RAY = "/ray/"
"""Is in the command line of each process of Ray but those of tasks."""


class Fleet:
    """The machines, the store with drives, and the cluster.

    Attributes:
        out: gets the logs.
        head: the machine with the head of the cluster and the command.
        workers: the machines that do tasks, one at a time each.
        proxy: between machines and store.
        store: the bucket, past the proxy.
        secret: of the store's user.
        expected: of each drive `detections.mcap` as one process makes it of local files.
    """

    def __init__(self, out: Path) -> None:
        gateway = make_network()
        names = ("head", "one", "two", "store")
        self.out = out
        self.head, *self.workers, storage = (
            Machine(name, number, out) for number, name in enumerate(names, 1)
        )
        self.secret = start_store(storage)
        self.proxy = FaultyProxy(gateway, storage.address)
        self.store = S3Store(
            BUCKET,
            endpoint=f"http://{storage.address}:{PORT}",
            access_key_id=KEY_ID,
            secret_access_key=self.secret,
            region=REGION,
            client_options={"allow_http": True},
        )
        self._environment = {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_REGION": REGION,
            "AWS_ALLOW_HTTP": "true",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.expected = self._fill()
        self.start()

    def start(self) -> None:
        """Start the cluster; its head does no task."""
        head = ["--head", f"--port={HEAD_PORT}", "--num-cpus=0", "--include-dashboard=false"]
        self._start(self.head, head, **HEALTH)
        for worker in self.workers:
            self.start_worker(worker)

    def start_worker(self, machine: Machine, **environment: str) -> None:
        """Let a machine do one task at a time."""
        head = f"--address={self.head.address}:{HEAD_PORT}"
        self._start(machine, [head, "--num-cpus=1"], **environment)

    def stop(self, *machines: Machine) -> None:
        """Kill what belongs to Ray on these machines; tasks end by it."""
        for machine in machines:
            machine.kill(RAY)
            wait_until(lambda one=machine: not one.processes(RAY), 20, "Ray is killed")

    def begin(self, name: str, *drives: str) -> "Run":
        """Begin to replay drives of the store."""
        lines = [f"s3://{BUCKET}/drives/{drive}" for drive in drives]
        self.store.put(f"{name}.txt", "\n".join(lines).encode())
        words = [str(BIN / "perception"), "replay", "--corpus", f"s3://{BUCKET}/{name}.txt"]
        words += ["--ray", f"{self.head.address}:{HEAD_PORT}", "--workers", "2"]
        words += ["--out", f"s3://{BUCKET}/runs/{name}"]
        self.proxy.requests.clear()
        return Run(self, name, self.head.start(name, words, self._environment))

    def replay(self, name: str, *drives: str, status: int = 0) -> "Run":
        """Replay drives of the store, to the end."""
        run = self.begin(name, *drives)
        run.end(status)
        return run

    def objects(self, prefix: str) -> dict[str, tuple[int, str]]:
        """Size and time of each object whose name begins so."""
        found = self.store.list(prefix).collect()
        return {one["path"]: (one["size"], str(one["last_modified"])) for one in found}

    def read(self, name: str) -> bytes:
        """An object."""
        return bytes(self.store.get(name).bytes())

    def keep_logs(self) -> None:
        """Copy Ray's own logs out of the machines."""
        for machine in (self.head, *self.workers):
            for folder in machine.path("/tmp/ray").glob("session_2*/logs"):
                shutil.copytree(folder, self.out / machine.name / folder.parent.name)

    def _fill(self) -> dict[str, bytes]:
        bags = self.head.path("/tmp/bags")
        with TemporaryDirectory(dir=self.out) as folder:  # SQLite follows no path in /proc
            write_drives(Path(folder, "bags"))
            shutil.copytree(Path(folder, "bags"), bags)
        bucket = sign(self.store, "PUT", "", timedelta(minutes=1))
        urlopen(Request(bucket, method="PUT", data=b"")).close()
        for file in sorted(one for one in bags.rglob("*") if one.is_file()):
            self.store.put(f"drives/{file.relative_to(bags)}", file)
        words = ["env", "-C", "/tmp/bags", str(BIN / "perception"), "replay", *NAMES]
        if self.head.start("local", [*words, "--out", "/tmp/local"], {}).wait(LIMIT_S):
            raise Failed(f"local files cannot be replayed, see {self.out}/local.log")
        shutil.rmtree(bags)
        local = {drive: f"/tmp/local/{drive}/detections.mcap" for drive in map(drive_of, NAMES)}
        return {drive: self.head.path(file).read_bytes() for drive, file in local.items()}

    def _start(self, machine: Machine, options: list[str], **environment: str) -> None:
        words = [str(BIN / "ray"), "start", f"--node-ip-address={machine.address}", *options]
        words += ["--disable-usage-stats", "--object-store-memory=100000000"]
        process = machine.start(f"ray-{machine.name}", words, self._environment | environment)
        if status := process.wait(LIMIT_S):
            raise Failed(f"Ray does not start on {machine.name}: status {status}")


class Run:
    """A command that replays drives of the store.

    Attributes:
        name: of its log, and of its folder in the store.
    """

    def __init__(self, fleet: Fleet, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name, self._fleet, self._process = name, fleet, process
        self._log = fleet.out / f"{name}.log"
        self._begin = self._log.stat().st_size

    def text(self) -> str:
        """What it has printed so far."""
        return self._log.read_bytes()[self._begin :].decode(errors="replace")

    def end(self, status: int) -> None:
        """Wait for its end.

        Raises:
            Failed: it ends with another status, with a traceback, or not in time.
        """
        try:
            ended = self._process.wait(LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{self.name} does not end within {LIMIT_S} s") from error
        if ended != status or "Traceback" in self.text():
            last = self.text().strip().splitlines()[-1:]
            raise Failed(f"{self.name} ends with status {ended} instead of {status}: {last}")

    def reader_of(self, drive: str) -> Machine:
        """Wait until a task is in the midst of a drive; returns its machine."""
        wanted = f"GET /{BUCKET}/drives/{drive}"

        def clients() -> list[str]:
            return [client for _, client, what in self._fleet.proxy.requests if what == wanted]

        wait_until(lambda: len(clients()) > 4, 60, f"a task reads {drive}")
        return next(one for one in self._fleet.workers if one.address == clients()[-1])

    def done(self) -> dict[str, tuple[int, str]]:
        """The drives that are done, with size and time of their markers."""
        objects = self._fleet.objects(f"runs/{self.name}/")
        return {name.split("/")[2]: of for name, of in objects.items() if name.endswith(MARKER)}

    def summary(self) -> dict:
        """Its `summary.json`."""
        return json.loads(self._fleet.read(f"runs/{self.name}/summary.json"))

    def check(self, *names: str) -> str:
        """See that these drives are whole, counted once, and as they are from local files.

        Raises:
            Failed: they are not.
        """
        summary, folder = self.summary(), f"runs/{self.name}"
        drives = sorted(map(drive_of, names))
        frames = sum(one["frames_in"] for one in summary["drives"].values())
        totals = (summary["totals"]["drives"], summary["totals"]["frames_in"])
        if sorted(summary["drives"]) != drives or sorted(self.done()) != drives:
            raise Failed(f"{self.name} has {sorted(summary['drives'])}, markers {self.done()}")
        if totals != (len(drives) + len(summary["failed"]), frames):
            raise Failed(f"{self.name} counts (drives, frames) {totals}, there are {frames} frames")
        sizes = {name: size for name, (size, _) in self._fleet.objects(folder).items()}
        for drive in drives:
            listed = json.loads(self._fleet.read(f"{folder}/{drive}/{MARKER}"))["files"]
            for file, size in listed.items():
                if (found := sizes.get(f"{folder}/{drive}/{file}")) != size:
                    raise Failed(f"{folder}/{drive}/{file} has {found} bytes instead of {size}")
            expected = self._fleet.expected[drive]
            said = summary["drives"][drive]["detections_sha256"]
            found = self._fleet.read(f"{folder}/{drive}/detections.mcap")
            if found != expected or said != hashlib.sha256(expected).hexdigest():
                raise Failed(f"{folder}/{drive}/detections.mcap differs from that of local files")
        return f"{len(drives)} drives, {frames} frames, bytes as from local files"


def drive_of(name: str) -> str:
    """The name of a drive's results."""
    return Path(name).stem
