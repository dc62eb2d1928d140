"""Tests what runs on arm64, on a machine with x86-64: `make arm64-test`, as root.

Debian's packages for arm64 are unpacked in a folder, with Python and a C++ compiler, and the wheels
for arm64 beside them, both without emulation. Then qemu-user runs our tests and commands there, and
what the networks compute is compared with what they compute here, to the bit.

All happens in namespaces of their own, which mounts, processes and the kernel's rule for programs
of arm64 end with. Machine and wheels are kept in the scratch folder.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from perception_nodes.report.recording import read_recording

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements/lock.txt"
CHECKOUT = "/root/perception_nodes"
SITE = "usr/local/lib/python3.13/dist-packages"
SUITE, PYTHON, GLIBC = "trixie", "3.13", 41
INCLUDED = "python3,libpython3-stdlib,g++"
ABSENT = {"ROS middleware", "rclpy", "vision_msgs", "perception_interfaces", "iceoryx2"}
"""Needed by the graph, and what only wheels or a ROS for x86-64 bring here."""
INSIDE = "PERCEPTION_ARM64_TEST_FROM"
"""Names the namespace of mounts that a run has left for one of its own."""
NAMESPACES = ["unshare", "--map-users=0,0,65536", "--map-groups=0,0,65536"]
NAMESPACES += ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
RULE = (
    r":perception-arm64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{}:OPF"
)
"""The kernel opens the interpreter as the rule is registered (F), and so it need not be inside."""
RULES = Path("/proc/sys/fs/binfmt_misc")
MOUNT_RULES = ["mount", "-t", "binfmt_misc", "binfmt_misc", str(RULES)]
DISK_BYTES = 5_000_000_000
PAGE_BYTES = 65536
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
TESTS = {
    "core": ["test/core"],
    "preprocess": ["test/preprocess"],
    "import": ["test/networks"],
    "backends": ["test/backends"],
    "replay": ["test/replay"],
    "C and C++": ["test/protection/test_cpp.py"],
}
RUNTIMES = ("golden", "litert", "onnxruntime", "openvino")
EXACT = ("input", "golden")
"""What must be the same to the bit. LiteRT's kernels for arm64 round otherwise than x86-64's."""
MEAN_CODES = 2.0
"""Bounds how far the other tensors may be apart; runtimes on x86-64 are so by up to one code."""
SHARE_ALONE = 0.25
"""Bounds the share of both machines' objects that have no counterpart on the other."""


class Failed(Exception):
    """A step or check has failed; the text says why."""


def main() -> int:
    """Make the machine, run the checks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp/perception-arm64"))
    parser.add_argument("--out", type=Path, default=ROOT / "out/arm64", help="gets the logs")
    parser.add_argument(
        "--only", nargs="+", default=[], help="checks with one of these in the name"
    )
    parser.add_argument("--minutes", type=int, default=60, help="ends what takes longer in all")
    parser.add_argument("--command", help="run this in the machine instead of the checks")
    arguments = parser.parse_args()
    if arguments.minutes < 1:
        parser.error("--minutes: 1 or more")
    scratch, out = arguments.scratch.resolve(), arguments.out.resolve()
    try:
        names = chosen(arguments.only)
        if not inside():
            if lack := lacking(scratch):
                raise Failed(lack)
            os.environ[INSIDE] = namespace()
            os.execvp(NAMESPACES[0], [*NAMESPACES, sys.executable, *sys.argv])
        for number in (signal.SIGTERM, signal.SIGHUP):  # the first process has no default
            signal.signal(number, signal.default_int_handler)
        end_s = limit(arguments.minutes)
        with alone(scratch):
            machine = Machine(scratch)
            if arguments.command:
                return machine.run(["bash", "-c", arguments.command], None, None)
            out.mkdir(parents=True, exist_ok=True)
            return check(machine, out, names, end_s)
    except (Failed, OSError, subprocess.SubprocessError) as failure:
        print(f"arm64_test: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("arm64_test: interrupted; nothing is mounted, what is whole is kept", file=sys.stderr)
        return 130


def chosen(only: Sequence[str]) -> list[str]:
    """The checks that have one of the words in their name; all if there is no word.

    Raises:
        Failed: a word is in no name.
    """
    for word in only:
        if not any(word in name for name in CHECKS):
            raise Failed(f"--only {word}: no check is named so; there are {'; '.join(CHECKS)}")
    return [name for name in CHECKS if not only or any(word in name for word in only)]


def namespace() -> str:
    """The namespace of this process's mounts."""
    return os.readlink("/proc/self/ns/mnt")


def inside() -> bool:
    """Whether mounts of this process stay in a namespace that a run has made for it."""
    return os.environ.get(INSIDE, namespace()) != namespace()


def limit(minutes: int) -> float:
    """Have Failed raised when the time is up, whatever runs then; returns when, monotonic."""

    def over(*_: object) -> None:
        raise Failed(f"not done when the time was up (--minutes {minutes})")

    signal.signal(signal.SIGALRM, over)
    end_s = time.monotonic() + 60 * minutes
    signal.alarm(60 * minutes)
    return end_s


@contextmanager
def alone(scratch: Path) -> Iterator[None]:
    """Hold the scratch folder, and leave no copy of the checkout in it.

    Raises:
        Failed: another run holds it.
    """
    with (scratch / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failed(f"another run uses {scratch}; name another folder: --scratch") from error
        try:
            yield
        finally:
            shutil.rmtree(scratch / "run", ignore_errors=True)


def starts(*command: str) -> bool:
    """Whether a command ends well in namespaces as the run has."""
    return subprocess.run([*NAMESPACES, *command], capture_output=True, check=False).returncode == 0


def registered(rule: Path = RULES / "qemu-aarch64") -> bool:
    """Whether this machine has a rule for arm64 that holds in other folders too (F)."""
    text = rule.read_text(encoding="ascii") if rule.is_file() else ""
    return bool(re.match(r"enabled\n(?s:.*)^flags: [A-Z]*F", text, re.MULTILINE))


def lacking(scratch: Path) -> str:
    """What this machine lacks and how to get it; empty if nothing."""
    if platform.machine() != "x86_64" or os.geteuid():
        return f"root on x86_64 is needed, this is user {os.geteuid()} on {platform.machine()}"
    for program in ("debootstrap", "qemu-aarch64-static", "unshare", "dpkg-deb", "git"):
        if not shutil.which(program):
            return f"{program} is missing; make arm64-packages installs it on Debian"
    if not starts("mount", "-t", "tmpfs", "none", "/tmp"):
        return "no namespace with mounts of its own can be made; a container must be --privileged"
    if not starts(*MOUNT_RULES) and not registered():
        return (
            "no program of arm64 would start: the kernel's module may not be loaded (modprobe "
            "binfmt_misc), and before Linux 6.7 a namespace has no rules of its own. Then the "
            "machine must have one, which Debian's qemu-user-static registers; a container sees it "
            f"after {' '.join(MOUNT_RULES)}"
        )
    scratch.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(scratch).free
    made = any(folder.suffix != ".part" for folder in scratch.glob("packages-*"))
    if free < DISK_BYTES and not made:
        return f"{scratch} has {free / 1e9:.1f} GB free, {DISK_BYTES / 1e9:.0f} GB are needed"
    return ""


def processor_time_s() -> float:
    """What ended commands have used; a busy machine changes it less than the time they took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"== {text}", flush=True)


def do(*command: str | Path, **options: object) -> None:
    """Run a command of this machine.

    Raises:
        Failed: its status is not 0.
    """
    words = list(map(str, command))
    if status := subprocess.run(words, check=False, **options).returncode:
        raise Failed(f"{' '.join(words[:6])} ...: status {status}")


class Machine:
    """A Debian for arm64 in a folder, the wheels and a copy of the checkout mounted in it."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.root = whole(scratch / f"machine-{SUITE}", self._make)
        asked = requirements()
        key = hashlib.sha256(asked.encode() + LOCK.read_bytes()).hexdigest()[:12]
        for other in scratch.glob("packages-*"):
            if other.name != f"packages-{key}":
                shutil.rmtree(other)
        packages = whole(scratch / f"packages-{key}", lambda folder: install(asked, folder))
        self._mount(packages)
        # Tried, since a rule of this machine's own would do too.
        if self.run(["true"], None, 60):
            raise Failed(f"no program of arm64 starts in {self.root}, nor does /bin/true")

    def run(self, command: Sequence[str], log: Path | None, limit_s: float | None) -> int:
        """Run a command in the checkout there, its output in a file; returns its status."""
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        environment |= {"PYTHONPATH": f"{CHECKOUT}/packaging", "OPENBLAS_NUM_THREADS": "1"}
        pairs = [f"{name}={value}" for name, value in environment.items()]
        inside = ["chroot", str(self.root), "/usr/bin/env", "-i", "-C", CHECKOUT, *pairs]
        stream = log.open("wb") if log else None
        try:
            words = [*inside, *command]
            done = subprocess.run(words, stdout=stream, stderr=stream, check=False, timeout=limit_s)
            return done.returncode
        except subprocess.TimeoutExpired as error:
            raise Failed(f"not done in {limit_s:.0f} s") from error
        finally:
            if stream:
                stream.close()

    def path(self, inside: str) -> Path:
        """A path in it, as seen from outside."""
        return self.root / inside.lstrip("/")

    def _make(self, folder: Path) -> None:
        say(f"a machine of Debian {SUITE} for arm64 (one to three minutes, once)")
        debs = self._scratch / "debs"  # kept, so that what was cut off goes on
        debs.mkdir(exist_ok=True)
        words = ["--arch=arm64", "--variant=minbase", "--foreign", f"--include={INCLUDED}"]
        do("debootstrap", *words, f"--cache-dir={debs}", SUITE, folder, stdout=subprocess.DEVNULL)
        # No package is configured: its scripts would run in emulation, and nothing here needs them.
        for package in sorted((folder / "var/cache/apt/archives").glob("*.deb")):
            do("dpkg-deb", "--extract", package, folder)
        for name in ("passwd", "group"):
            shutil.copyfile(folder / f"usr/share/base-passwd/{name}.master", folder / "etc" / name)
        (folder / "usr/bin/c++").symlink_to("g++")
        (folder / "usr/bin/cc").symlink_to("gcc")

    def _mount(self, packages: Path) -> None:
        run = self._scratch / "run"
        shutil.rmtree(run, ignore_errors=True)
        copy_checkout(run / "root" / Path(CHECKOUT).name)
        (run / "tmp").mkdir()
        for source, inside in (
            (packages, SITE),
            (run / "root", "root"),
            (run / "tmp", "tmp"),
            (Path("/sys"), "sys"),
        ):
            self.path(inside).mkdir(parents=True, exist_ok=True)
            do("mount", "--rbind", source, self.path(inside))
        do("mount", "-t", "proc", "proc", self.path("proc"))
        do("mount", "-t", "tmpfs", "dev", self.path("dev"))
        for name in DEVICES:
            self.path(f"dev/{name}").touch()
            do("mount", "--bind", f"/dev/{name}", self.path(f"dev/{name}"))
        self.path("dev/shm").mkdir()
        do("mount", "-t", "tmpfs", "-o", "mode=1777", "shm", self.path("dev/shm"))
        self.path("dev/fd").symlink_to("/proc/self/fd")
        if subprocess.run(MOUNT_RULES, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            rule = RULE.format(shutil.which("qemu-aarch64-static"))
            (RULES / "register").write_text(rule, encoding="ascii")


def whole(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is made under another name and renamed, unless it is there."""
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        make(part)
        part.rename(folder)
    return folder


def requirements() -> str:
    """What is to be installed there, as pip reads it: all that runs but iceoryx2, and pytest."""
    runtime, dev = (
        (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8").splitlines()
        for name in ("runtime", "dev")
    )
    asked = [line for line in runtime if re.match(r"(?!iceoryx2)[A-Za-z]", line)]
    asked += [
        line for line in dev if re.match("(pytest|pytest-timeout|pytest-xdist|hypothesis)==", line)
    ]
    return "\n".join([f"-c {LOCK}", *asked, ""])


def install(asked: str, folder: Path) -> None:
    """Install wheels for arm64 into a folder, with this machine's pip."""
    say("the wheels for arm64 (about 350 MB; one to five minutes, once)")
    listed = folder.with_name("requirements.txt")
    listed.write_text(asked, encoding="utf-8")
    options = ["--only-binary=:all:", "--no-compile", "--implementation=cp"]
    options += [f"--python-version={PYTHON}", "--platform=manylinux2014_aarch64"]
    options += [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, GLIBC + 1)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    do(*pip, "--no-warn-conflicts", "--target", folder, *options, "-r", listed)


def copy_checkout(folder: Path) -> None:
    """Copy what git has in this checkout, and the sample drives."""
    folder.mkdir(parents=True)
    git = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-zco", "--exclude-standard"]
    names = subprocess.check_output(git, cwd=ROOT).split(b"\0")
    there = b"\0".join(name for name in names if (ROOT / os.fsdecode(name)).is_file() and name)
    pack = ["tar", "--create", f"--directory={ROOT}", "--null", "--files-from=-"]
    packed = subprocess.run(pack, input=there, stdout=subprocess.PIPE, check=True).stdout
    do("tar", "--extract", f"--directory={folder}", input=packed)
    for name in ("sample", "sample_sqlite3"):
        shutil.copytree(ROOT / "bags" / name, folder / "bags" / name)


class Check:
    """What all checks have: the machine, the folder of logs, the log of the one that runs."""

    def __init__(self, machine: Machine, out: Path) -> None:
        self.machine, self.out, self.log = machine, out, out / "log.txt"

    def there(self, *command: str, limit_s: float = 1800, status: int = 0) -> str:
        """Run Python there; returns its output.

        Raises:
            Failed: its status is another one, or it takes too long.
        """
        done = self.machine.run(["python3", *command], self.log, limit_s)
        text = self.log.read_text(encoding="utf-8", errors="replace")
        if done != status:
            last = (text.strip().splitlines() or ["nothing printed"])[-1]
            raise Failed(f"status {done}: {last}")
        return text

    def here(self, *command: str) -> None:
        """Run Python of this machine in the checkout."""
        log = self.out / "here.log"
        with log.open("wb") as stream:
            do(sys.executable, *command, cwd=ROOT, stdout=stream, stderr=stream)

    # Checks: each returns what was seen, in one line.

    def processor(self) -> str:
        """What the emulated machine is."""
        words = "platform.machine(), platform.python_version(), *platform.libc_ver(), "
        words += "sys.byteorder + '-endian', f'pages of {mmap.PAGESIZE}'"
        text = self.there("-c", f"import mmap, platform, sys; print({words})").strip()
        if not text.startswith("aarch64"):
            raise Failed(f"it is {text}")
        return text

    def pages(self) -> str:
        """Whether a kernel with pages of 64 kB can load the wheels; emulation has 4 kB."""
        libraries = sorted(self.machine.path(SITE).rglob("*.so*"))
        found = {path: alignment(path) for path in libraries if not path.is_symlink()}
        found = {path: bytes_ for path, bytes_ in found.items() if bytes_}
        small = [path.name for path, bytes_ in found.items() if bytes_ < PAGE_BYTES]
        if small or not found:
            named = ", ".join(small)
            raise Failed(f"{len(small)} of {len(found)} libraries need smaller pages: {named}")
        return f"all {len(found)} libraries of the wheels are aligned to 64 kB (read, not run)"

    def doctor(self) -> str:
        """Finds what is there, and lacks exactly what cannot be had."""
        text = self.there("-m", "perception_nodes", "doctor", "--json", status=1)
        found = json.loads(text[text.index("[\n") if "[\n" in text else text.index("[") :])
        absent = {one["subject"] for one in found if one["needed"] and not one["ok"]}
        if absent != ABSENT:
            raise Failed(f"it lacks {', '.join(sorted(absent))}")
        return f"fit but for {', '.join(sorted(absent))}"

    def replay(self, backend: str) -> str:
        """The golden drive, and the recording to the byte that it is here."""
        golden = ["--golden", "test/replay/golden/sample.json"] if backend == "golden" else []
        strict = ["--box-iou", "1", "--score-tolerance", "0"] if golden else []
        words = ["-m", "perception_nodes", "replay", "bags/sample_sqlite3", "--backend", backend]
        words += ["--every", "5", "--no-pictures", "--json", "--threads", "1", *golden, *strict]
        there, here = f"/tmp/replay-{backend}", self.out / f"replay-{backend}-x86-64"
        self.here(*words, "--out", str(here))
        self.there(*words, "--out", there)
        copied = self.out / f"replay-{backend}-arm64"
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(self.machine.path(there), copied)
        ours, theirs = (
            json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            for folder in (here, copied)
        )
        counted = f"{theirs['frames_in']} frames, {theirs['detections']} objects"
        if not ours["detections"] or not theirs["detections"]:
            raise Failed(f"{counted}, on x86-64 {ours['detections']}: there is nothing to compare")
        if golden:
            counted += ", as in the golden file"
        if ours["detections_sha256"] == theirs["detections_sha256"]:
            return f"{counted}; detections.mcap is that of x86-64 to the byte"
        if backend in EXACT:
            raise Failed(f"{counted}; detections.mcap differs from x86-64's")
        apart, alone = objects_apart(list(zip(*map(objects_of, (here, copied)), strict=True)))
        if alone > SHARE_ALONE:
            raise Failed(f"{counted}; more than {SHARE_ALONE:.0%} without counterpart: {apart}")
        return f"{counted}; not to the byte: {apart}"

    def outputs(self) -> str:
        """Every tensor and object of each runtime."""
        script = "packaging/network_outputs.py"
        self.here(script, str(self.out / "outputs-x86-64.npz"))
        self.there(script, "/tmp/outputs.npz")
        shutil.copyfile(self.machine.path("/tmp/outputs.npz"), self.out / "outputs-arm64.npz")
        lines, rounded, wrong = differences(
            np.load(self.out / "outputs-x86-64.npz"), np.load(self.out / "outputs-arm64.npz")
        )
        print("\n".join(f"   {line}" for line in lines), flush=True)
        (self.out / "outputs.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
        if wrong:
            raise Failed(f"too far from x86-64: {', '.join(wrong)}")
        others = ", ".join(sorted(rounded)) or "none"
        return f"{', '.join(EXACT)} to the bit; rounded otherwise, within the bounds: {others}"

    def imported(self) -> str:
        """A small detector as an exporter writes it."""
        write = "import sys; sys.path.insert(0, 'test/networks'); import numpy as np; "
        write += "from toy_detectors import cells, detector, written; "
        write += "rows = np.full((1, 7, cells(8, 16, 32)), 0.5, np.float32); rows[:, :4] = 20.5; "
        write += "written(detector({'output0': rows}), '/tmp/toy.onnx')"
        self.there("-c", write)
        words = ["import", "/tmp/toy.onnx", "--name", "toy", "--classes", "car,bus,truck"]
        words += ["--size", "96x64", "--license", "Apache-2.0", "--out", "/tmp/models"]
        self.there("-m", "perception_nodes", "model", *words)
        return self.log.read_text(encoding="utf-8").strip().splitlines()[0]

    def compiled(self, backend: str) -> str:
        """Checked against the integer network on frames of the sample."""
        words = ["compile", "road-n", "--backend", backend, "--frames", "2", "--threads", "1"]
        text = self.there("-m", "perception_nodes", "model", *words, "--json")
        facts = json.loads(text[text.index("{") :])
        agreements = [f"{key} {facts[key]}" for key in facts if "agreement" in key]
        if not agreements:
            raise Failed("it tells no agreement with the integer network")
        return ", ".join(agreements)

    def tests(self, paths: Sequence[str]) -> str:
        """Tests of ours, without what needs iceoryx2 or ROS."""
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:endpoint_fixtures"]
        options += ["-n", "2", "--dist", "loadfile"]
        text = self.there("-m", "pytest", *options, "-p", "without_ros", *paths, limit_s=2400)
        summary = text.strip().splitlines()[-1].strip("= ")
        if not re.search(r"\b[1-9]\d* passed", summary):
            raise Failed(f"no test has passed: {summary}")
        return summary


CHECKS: dict[str, Callable[[Check], str]] = {
    "processor": Check.processor,
    "pages of 64 kB": Check.pages,
    "doctor": Check.doctor,
    **{f"replay, {name}": partial(Check.replay, backend=name) for name in RUNTIMES},
    "tensors and objects": Check.outputs,
    "model import": Check.imported,
    **{
        f"model compile, {name}": partial(Check.compiled, backend=name)
        for name in ("litert", "onnxruntime")
    },
    **{f"tests, {name}": partial(Check.tests, paths=paths) for name, paths in TESTS.items()},
}


def differences(
    here: Mapping[str, np.ndarray], there: Mapping[str, np.ndarray]
) -> tuple[list[str], set[str], list[str]]:
    """How the outputs of two machines differ.

    Returns: a line a tensor, the runtimes that differ, the tensors that are out of their bounds.

    Raises:
        Failed: names differ, or a runtime has no tensor.
    """
    if set(here) != set(there):
        raise Failed("the machines' outputs have different names")
    if absent := {"input", *RUNTIMES} - {key.partition("/")[0] for key in here}:
        raise Failed(f"there is no tensor of {', '.join(sorted(absent))}")
    lines, rounded, wrong = [], set(), []
    tensors = dict.fromkeys(key.rpartition("/")[0] for key in here if not key.startswith("step/"))
    for tensor in tensors:
        runtime, _, name = tensor.partition("/")
        pairs = [(here[k], there[k]) for k in here if k.rpartition("/")[0] == tensor]
        if all(np.array_equal(a, b) for a, b in pairs):
            lines.append(f"{tensor}: the same to the bit, {len(pairs)} frames")
            continue
        rounded.add(runtime)
        if name == "objects":
            text, alone = objects_apart(pairs)
            far = alone > SHARE_ALONE
        else:
            apart = np.abs(np.stack([a.astype(np.float64) - b for a, b in pairs]))
            step = float(here[f"step/{name}"]) if f"step/{name}" in here else 1.0
            mean, share = apart.mean() / step, np.mean(apart > 0)
            text = f"{share:.1%} of the values differ, by {mean:.2f} codes in the mean and "
            text += f"{apart.max() / step:.1f} at most"
            far = not mean <= MEAN_CODES  # not a number is too far
        lines.append(f"{tensor}: {text}")
        if far or runtime in EXACT:
            wrong.append(tensor)
    return lines, rounded, wrong


def objects_apart(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[str, float]:
    """How far the objects of the same frames are apart: class, score, four corners a row.

    Returns: it in words, and the share of both machines' objects that have no counterpart; 1 where
    there is no object at all.
    """
    counts, scores, corners, alone = [0, 0], [0.0], [0.0], 0
    for ours, theirs in pairs:
        counts[0] += len(ours)
        counts[1] += len(theirs)
        alone += sum(yours is None for _, yours in counterparts(theirs, ours))
        for mine, yours in counterparts(ours, theirs):
            if yours is None:
                alone += 1
                continue
            scores.append(abs(mine[1] - yours[1]))
            corners.append(np.abs(mine[2:] - yours[2:]).max())
    text = (
        f"{counts[0]} on x86-64, {counts[1]} on arm64, {alone} without counterpart; scores "
        f"differ by {max(scores):.4f} at most, corners by {max(corners):.2f} pixels"
    )
    return text, alone / sum(counts) if sum(counts) else 1.0


def objects_of(folder: Path) -> list[np.ndarray]:
    """The objects of each frame of a replay, as `objects_apart` takes them."""
    recording = read_recording(folder / "detections.mcap")
    frames = [recording.found(report) for report in recording.reports]
    return [
        np.array(
            [
                (zlib.crc32(label.encode()), score, *box)
                for label, score, box in zip(one.labels, one.scores, one.boxes, strict=True)
            ]
        ).reshape(-1, 6)
        for one in frames
    ]


def counterparts(
    ours: np.ndarray, theirs: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Each object of ours with the nearest of theirs that has its class and half of its box."""
    for mine in ours:
        same = theirs[theirs[:, 0] == mine[0]]
        low = np.maximum(mine[2:4], same[:, 2:4])
        high = np.minimum(mine[4:6], same[:, 4:6])
        common = np.prod(np.clip(high - low, 0, None), axis=1)
        union = np.prod(mine[4:6] - mine[2:4]) + np.prod(same[:, 4:6] - same[:, 2:4], axis=1)
        overlap = common / (union - common)
        yield mine, same[overlap.argmax()] if overlap.max(initial=0) > 0.5 else None


def alignment(path: Path) -> int:
    """The least alignment of a library's loaded segments, 0 if it is no library of 64 bits."""
    data = path.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        return 0
    start, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    heads = [struct.unpack_from("<2I6Q", data, start + n * size) for n in range(count)]
    return min((head[7] for head in heads if head[0] == 1), default=0)


def keep(results: list[dict[str, object]], out: Path) -> None:
    """Write what is known so far."""
    part = out / "results.json.part"
    part.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    part.replace(out / "results.json")


def check(machine: Machine, out: Path, names: Sequence[str], end_s: float) -> int:
    """Run checks until the time is up and print what was seen; returns 1 unless all have passed."""
    every = Check(machine, out)
    results = [
        {"check": name, "passed": False, "seen": "not run", "seconds": 0, "processor_seconds": 0}
        for name in names
    ]
    keep(results, out)
    began_s = time.monotonic()
    for number, result in enumerate(results, 1):
        begin_s, begin_cpu_s, name = time.monotonic(), processor_time_s(), result["check"]
        if begin_s >= end_s:
            say(f"the time is up (--minutes): {len(results) - number + 1} checks are not run")
            break
        say(f"{number} of {len(results)}: {name} ({(begin_s - began_s) / 60:.0f} min so far)")
        every.log = out / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.log"
        try:
            result["seen"] = CHECKS[name](every)
            result["passed"] = True
        except Failed as failure:
            result["seen"] = f"{failure}; see {every.log}"
        except Exception as error:  # one check's fault is not the end of the others
            result["seen"] = f"{type(error).__name__}: {error}; see {every.log}"
        result["seconds"] = round(time.monotonic() - begin_s)
        result["processor_seconds"] = round(processor_time_s() - begin_cpu_s)
        keep(results, out)
        print(f"   {'ok' if result['passed'] else 'FAILED'}: {result['seen']}", flush=True)
    print(f"\narm64 in emulation, in {(time.monotonic() - began_s) / 60:.0f} minutes; ", end="")
    print(f"seconds of processor time in brackets ({processor_time_s():.0f} in all)")
    for one in results:
        verdict, lasted = "ok    " if one["passed"] else "FAILED", f"{one['seconds']:5} s"
        lasted += f" ({one['processor_seconds']:4})"
        print(f"{verdict} {lasted}  {one['check']}: {one['seen']}")
    failed = sum(not one["passed"] for one in results)
    print(f"{len(results) - failed} passed, {failed} failed or not run; logs in {out}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
