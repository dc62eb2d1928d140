"""Does what packaging/Dockerfile says in folders in place of images, and plays the demo there.

It serves machines without Docker, and is to be run as root. The stages' folders are chroots of a
Debian that debootstrap makes; mounts live in a namespace of their own and end with it.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "packaging/Dockerfile"
OF_THE_HOST = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
"""What a machine behind a proxy needs to reach the network, as Docker would pass it on."""
CHROOT = "/usr/sbin/chroot"
PASSED_ON = re.compile(r"(https?|no)_proxy|PIP_|SSL_CERT|REQUESTS_CA", re.IGNORECASE)


class Stage:
    """A stage of the build: a folder that stands for its image, and what holds for its commands."""

    def __init__(self, base: Path, root: Path) -> None:
        """Begin with a copy of the base image."""
        subprocess.run(["cp", "-a", "--reflink=auto", base, root], check=True)
        self.root, self.folder, self.user = root, "/", "root"
        self.entrypoint: list[str] = []
        passed_on = {k: v for k, v in os.environ.items() if PASSED_ON.match(k)}
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **passed_on}
        # Of the namespace's own processes: nodes look one another up there.
        subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
        for name in ("sys", "dev"):
            subprocess.run(["mount", "--rbind", f"/{name}", root / name], check=True)

    def run(self, *command: str) -> str:
        """Run a command in it; what the command prints goes to the screen and is returned."""
        for name in OF_THE_HOST:  # each time, since what is installed may write them anew
            if Path(name).is_file():
                (self.root / name[1:]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(name, self.root / name[1:])
        inside = [CHROOT, f"--userspec={self.user}", str(self.root), "/usr/bin/env", "-C"]
        home = "/root" if self.user == "root" else f"/home/{self.user}"
        process = subprocess.run(
            [*inside, self.folder, *command],
            env={**self.environment, "HOME": home},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(process.stdout, end="", flush=True)
        if process.returncode:
            sys.exit(f"{shlex.join(command)}: status {process.returncode}")
        return process.stdout

    def target(self, name: str) -> Path:
        """A path in it, as seen from outside."""
        return self.root / os.path.join(self.folder, name)[1:]


def main() -> int:
    """Build the image and play the demo in it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="trixie", help="Debian's release, the base image")
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp/perception-image"))
    arguments = parser.parse_args()
    base: Path = arguments.scratch / arguments.suite
    if os.getpid() != 1:
        sys.exit("not in a namespace, which mounts and processes end with; run make image-test")
    if not shutil.which("debootstrap"):
        sys.exit("debootstrap is missing; apt install debootstrap")
    if not (base / "etc/os-release").is_file():
        base.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["debootstrap", "--variant=minbase", arguments.suite, base], check=True)
    final = build(base, arguments.scratch)
    final.run(*final.entrypoint, "--version")
    final.run(*final.entrypoint, "doctor")
    summary = json.loads(final.run(*final.entrypoint, "demo", "--out", "demo", "--json"))
    return 0 if summary["frames_in"] and summary["detections"] else 1


def build(base: Path, scratch: Path) -> Stage:
    """Follow the Dockerfile; returns its last stage."""
    stages: dict[str, Stage] = {}
    for word, rest in instructions(DOCKERFILE.read_text(encoding="utf-8")):
        print(f"{word} {rest}", flush=True)
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "final"
            shutil.rmtree(scratch / name, ignore_errors=True)
            stage = stages[name] = Stage(base, scratch / name)
        elif word == "RUN":
            stage.run("/bin/sh", "-c", rest)
        elif word == "WORKDIR":
            stage.target(rest).mkdir(parents=True, exist_ok=True)
            stage.folder = rest
        elif word == "COPY":
            copy(stages, stage, shlex.split(rest))
        elif word == "ENV":
            name, _, value = rest.partition("=")
            stage.environment[name] = value
        elif word == "USER":
            stage.user = rest
        elif word == "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        elif word not in ("ARG", "CMD"):
            sys.exit(f"{word} is not known here; teach {Path(__file__).name} what it does")
    return stage


def copy(stages: dict[str, Stage], stage: Stage, words: list[str]) -> None:
    """Copy from another stage, or from the repository what git has in it."""
    if words[0].startswith("--from="):
        other, source, target = stages[words[0].removeprefix("--from=")], *words[1:]
        shutil.copytree(other.target(source), stage.target(target), symlinks=True)
        return
    assert words == [".", "."], words
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT)
    pack = ["tar", "--create", f"--directory={ROOT}", "--null", "--files-from=-"]
    packed = subprocess.run(pack, input=names, stdout=subprocess.PIPE, check=True).stdout
    unpack = ["tar", "--extract", f"--directory={stage.target('.')}"]
    subprocess.run(unpack, input=packed, check=True)


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, without comments, each on one line."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines) if word]


if __name__ == "__main__":
    sys.exit(main())
