"""A Debian for arm64 in a folder, which runs on x86-64 in namespaces that leave nothing mounted.

Debian's packages are unpacked there, with Python and a C++ compiler, and the wheels for arm64
beside them, both without emulation. They are kept in the scratch folder. qemu-user runs what is
started there.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements/lock.txt"
CHECKOUT = "/root/perception_nodes"
SITE = "usr/local/lib/python3.13/dist-packages"
SUITE, PYTHON, GLIBC = "trixie", "3.13", 41
INCLUDED = "python3,python3-venv,libpython3-stdlib,ca-certificates,g++,cmake,make"
PROCESSOR = "cortex-a76"
"""Like a Jetson Orin's, with the dot product. Vectors of SVE and SME, which libraries would choose
on a processor that has all there is, take fifteen times as long in emulation."""
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
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class Failed(Exception):
    """A step or check has failed; the text says why."""


def namespace() -> str:
    """The namespace of this process's mounts."""
    return os.readlink("/proc/self/ns/mnt")


def inside() -> bool:
    """Whether mounts of this process stay in a namespace that a run has made for it."""
    return os.environ.get(INSIDE, namespace()) != namespace()


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


def run(words: Sequence[str], log: Path, limit_s: float) -> int:
    """Run a command in the checkout, its output in a file; returns its status.

    Raises:
        subprocess.TimeoutExpired: it took longer, and has been killed with all it started.
    """
    apart = {"cwd": ROOT, "start_new_session": True, "stderr": subprocess.STDOUT}
    with log.open("wb") as stream, subprocess.Popen(words, stdout=stream, **apart) as process:
        try:
            return process.wait(limit_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise


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
        self.root = kept(scratch / "machine", SUITE + INCLUDED, self._make)
        asked = requirements()
        key = asked + LOCK.read_text(encoding="utf-8")
        packages = kept(scratch / "packages", key, lambda folder: install(asked, folder))
        self._mount(packages)
        # Tried, since a rule of this machine's own would do too.
        if subprocess.run(self.words(["true"]), check=False, timeout=60).returncode:
            raise Failed(f"no program of arm64 starts in {self.root}, nor does /bin/true")

    def words(self, command: Sequence[str]) -> list[str]:
        """The command that runs a command in the checkout there."""
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
        environment |= {"PYTHONPATH": f"{CHECKOUT}/packaging", "OPENBLAS_NUM_THREADS": "1"}
        # The search for leaks traces its own process, which the emulation cannot.
        environment |= {"QEMU_CPU": PROCESSOR, "ASAN_OPTIONS": "detect_leaks=0"}
        pairs = [f"{name}={value}" for name, value in environment.items()]
        return ["chroot", str(self.root), "/usr/bin/env", "-i", "-C", CHECKOUT, *pairs, *command]

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
        # What Debian's script would write; pip reads it at each start, even without a network.
        authorities = sorted(folder.glob("usr/share/ca-certificates/*/*.crt"))
        bundle = folder / "etc/ssl/certs/ca-certificates.crt"
        bundle.parent.mkdir(parents=True, exist_ok=True)
        bundle.write_bytes(b"".join(map(Path.read_bytes, authorities)))
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


def kept(name: Path, key: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made of what the key says, unless it is there; others of its name go.

    It is made under another name and renamed.
    """
    folder = name.with_name(f"{name.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}")
    for other in name.parent.glob(f"{name.name}-*"):
        if other != folder:
            shutil.rmtree(other)
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
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
