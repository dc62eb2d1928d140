#!/usr/bin/env python3
"""Build our message packages into the active virtual environment.

On a machine with a ROS distribution, colcon builds them like any package. This
script is for machines that have ROS from Python wheels only: it drives cmake
itself and installs into the environment's own prefix, where Python and the
dynamic linker look already. A second call that finds nothing changed returns
at once.

Run it with the environment's Python: ``.venv/bin/python interfaces/build.py``, or as
``perception messages``. With ``--wheel FOLDER`` it packs what it has built into a wheel.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from pack import write_wheel

PACKAGES = ("vision_msgs", "foxglove_msgs", "ffmpeg_image_transport_msgs", "perception_interfaces")
SOURCES = Path(__file__).resolve().parent
PREFIX = Path(sys.prefix)
RECORD = PREFIX / "share" / "perception_nodes_interfaces.json"
SCRATCH_NAME = ".interfaces-"


class BuildError(Exception):
    """The packages cannot be built here; the message says what to do."""


def main() -> int:
    """Build what is missing or out of date; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="folder that gets a wheel of the packages")
    folder = parser.parse_args().wheel
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        bring_up_to_date()
        if folder is not None:
            version = ElementTree.parse(SOURCES / "perception_interfaces/package.xml")
            print(write_wheel(PREFIX, read_record()["files"], version.findtext("version"), folder))
    except BuildError as error:
        print(f"interfaces: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"interfaces: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def bring_up_to_date() -> None:
    """Build the packages into the environment, unless they are there as they are here.

    Raises:
        BuildError: they cannot be built.
    """
    packages = [name for name in PACKAGES if not provided_by_distribution(name)]
    wanted = fingerprint(packages)
    if installed_fingerprint() == wanted:
        return
    check_prerequisites()
    point_exports_at_this_python()
    for leftover in PREFIX.glob(f"{SCRATCH_NAME}*"):
        shutil.rmtree(leftover)
    # Inside the prefix, so that installing is a rename and not a copy.
    with tempfile.TemporaryDirectory(prefix=SCRATCH_NAME, dir=PREFIX) as scratch:
        staging = Path(scratch) / "staging"
        for name in packages:
            build(name, Path(scratch) / name, staging)
        install(staging / PREFIX.relative_to("/"), wanted)


def provided_by_distribution(package: str) -> bool:
    """Say whether a sourced ROS installation has the package already."""
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        outside = Path(prefix).resolve() != PREFIX.resolve()
        if outside and (Path(prefix) / "share" / package / "package.xml").exists():
            print(f"interfaces: {package} comes from {prefix}")
            return True
    return False


def fingerprint(packages: list[str]) -> str:
    """Hash all that the built files depend on."""
    digest = hashlib.sha256()
    for path in [Path(__file__), *(p for name in packages for p in package_files(name))]:
        digest.update(f"{path.relative_to(SOURCES)}\0".encode() + path.read_bytes())
    # The directory names of installed wheels carry their versions; reading the
    # metadata instead would take longer than all the rest of an idle call.
    wheels = Path(sysconfig.get_path("purelib")).glob("*.dist-info")
    relevant = sorted(p.name for p in wheels if p.name.startswith(("ros_", "numpy-")))
    digest.update("\0".join([sys.version, sys.prefix, *relevant]).encode())
    return digest.hexdigest()


def package_files(package: str) -> Iterator[Path]:
    """Yield the source files of a package, in a fixed order."""
    root = SOURCES / package
    yield root / "CMakeLists.txt"
    yield root / "package.xml"
    yield from sorted(root.glob("msg/*.msg"))


def installed_fingerprint() -> str | None:
    """Return the fingerprint of the last build, or None if it is not whole."""
    record = read_record()
    whole = all((PREFIX / name).exists() for name in record["files"])
    return record["fingerprint"] if whole else None


def read_record() -> dict:
    """Return what the last build noted, or an empty note."""
    try:
        return json.loads(RECORD.read_text())
    except FileNotFoundError:
        return {"fingerprint": None, "files": []}


def check_prerequisites() -> None:
    """Refuse to start where the build could only fail later and less clearly."""
    if sys.prefix == sys.base_prefix:
        raise BuildError(
            f"{sys.executable} is not in a virtual environment; run `make setup`, "
            "or `colcon build` on a full ROS installation"
        )
    for language, variable, commands in (
        ("C", "CC", ("cc", "gcc", "clang")),
        ("C++", "CXX", ("c++", "g++", "clang++")),
    ):
        chosen = os.environ.get(variable, "").split()[:1] or commands
        if not any(map(shutil.which, chosen)):
            raise BuildError(
                f"no {language} compiler found (looked for {', '.join(chosen)}); install one, "
                "e.g. `apt install build-essential` or `dnf install gcc-c++`"
            )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BuildError(
            f"{header} is missing; install the headers of Python {version}, "
            f"e.g. `apt install python{version}-dev` or `dnf install python3-devel`"
        )
    for tool in ("cmake", "ninja"):
        if not (PREFIX / "bin" / tool).exists():
            raise missing_requirement(f"bin/{tool}")
    if not (PREFIX / "share" / "rosidl_default_generators").is_dir():
        raise missing_requirement("share/rosidl_default_generators")


def missing_requirement(name: str) -> BuildError:
    """Return the error for something that a pinned wheel should have brought."""
    return BuildError(
        f"{PREFIX / name} is missing; run `make setup` in a checkout, elsewhere "
        f"`{PREFIX / 'bin' / 'pip'} install 'perception_nodes[messages]'`"
    )


def point_exports_at_this_python() -> None:
    """Give the wheels' cmake files the header folders of this Python.

    Those files name the folders of the machine that built the wheels, and
    cmake stops at an include folder that does not exist.
    """
    import numpy

    folders = f"{sysconfig.get_path('include')};{numpy.get_include()}"
    exports = sorted(PREFIX.glob("share/*/cmake/export_*__rosidl_generator_pyExport.cmake"))
    if not exports:
        raise layout_changed("share/*/cmake/export_*__rosidl_generator_pyExport.cmake", "no file")
    for path in exports:
        text = path.read_text()
        fixed, count = re.subn(
            r'(INTERFACE_INCLUDE_DIRECTORIES )"[^"]*"', rf'\g<1>"{folders}"', text
        )
        if count != 1:
            raise layout_changed(str(path), f"{count} INTERFACE_INCLUDE_DIRECTORIES lines")
        if fixed != text:
            # A new file instead of a change in place: installers that link
            # files from a cache would otherwise have their cache changed.
            replacement = path.with_suffix(".new")
            replacement.write_text(fixed)
            replacement.replace(path)


def layout_changed(where: str, found: str) -> BuildError:
    """Return the error for wheels that look unlike those we know."""
    return BuildError(
        f"the ROS wheels have another layout than expected ({where}: {found}); "
        "install the versions pinned in requirements/"
    )


def build(package: str, build_dir: Path, staging: Path) -> None:
    """Configure, compile and stage one package."""
    cmake = str(PREFIX / "bin" / "cmake")
    configure = [
        f"-DCMAKE_INSTALL_PREFIX={PREFIX}",
        f"-DCMAKE_PREFIX_PATH={PREFIX}",
        f"-DCMAKE_MAKE_PROGRAM={PREFIX / 'bin' / 'ninja'}",
        f"-DPython3_EXECUTABLE={sys.executable}",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_TESTING=OFF",
    ]
    source, target = str(SOURCES / package), str(build_dir)
    run(package, "configure", [cmake, "-S", source, "-B", target, "-G", "Ninja", *configure])
    run(package, "compile", [cmake, "--build", target])
    run(package, "install", [cmake, "--install", target], DESTDIR=str(staging))


def run(package: str, step: str, command: list[str], **extra_env: str) -> None:
    """Run one build step with a line of progress; show its output if it fails."""
    env = os.environ | extra_env
    env["AMENT_PREFIX_PATH"] = str(PREFIX)
    env["PATH"] = os.pathsep.join([str(PREFIX / "bin"), env.get("PATH", os.defpath)])
    env.pop("PYTHONPATH", None)

    title = f"interfaces: {package}: {step}"
    live = sys.stdout.isatty()
    started = time.monotonic()
    print(title, end="" if live else "\n", flush=True)
    tail: deque[str] = deque(maxlen=40)
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                tail.append(line)
                progress = re.match(r"\[\d+/\d+\]", line)
                if live and progress:
                    print(f"\r{title} {progress[0]}", end="", flush=True)
        except BaseException:
            process.terminate()
            raise
    if live:
        print(f"\r{title} {time.monotonic() - started:.1f} s      ", flush=True)
    if process.returncode:
        raise BuildError(f"{package}: {step} failed; its last lines:\n{''.join(tail)}")


def install(staged: Path, wanted: str) -> None:
    """Move the staged files into the prefix, all or none, and note them."""
    files = [p.relative_to(staged) for p in sorted(staged.rglob("*")) if not p.is_dir()]
    for name in read_record()["files"]:
        (PREFIX / name).unlink(missing_ok=True)
    RECORD.unlink(missing_ok=True)
    try:
        for name in files:
            (PREFIX / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).replace(PREFIX / name)
        note = {"fingerprint": wanted, "files": [str(name) for name in files]}
        RECORD.write_text(json.dumps(note, indent=1))
    except BaseException:
        for name in files:
            (PREFIX / name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
