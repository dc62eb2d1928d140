"""The checks of `make arm64-test`, the cheap and telling ones first."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from arm64_differences import differences, recordings_apart
from arm64_machine import SITE, Failed, Machine, run

ABSENT = {"ROS middleware", "rclpy", "vision_msgs", "perception_interfaces", "iceoryx2"}
"""Needed by the graph, and what only wheels or a ROS for x86-64 bring here."""
PAGE_BYTES = 65536
SAMPLE_FRAMES = 60
FRAMES = (2, 3, 4, 6, 12)
"""How many of them a check may see, evenly apart from the first on."""
EXACT = "golden"
"""What must be the same to the bit; a runtime's kernels for arm64 may round otherwise."""
SCALED_APART = 1
COMPILE_FRAMES = "8"
"""With fewer there are too few objects to judge the model by."""
CASES, EXAMPLES = 2, 10
"""Of each test and each property; with all of them the suites take an hour of processor time."""
END_S = 30
"""A suite starts no test in the last seconds of its share, and so has time to count them."""
CORES = min(len(os.sched_getaffinity(0)), 4)


class Cut(Exception):
    """The time did not suffice; the text says what was seen by then."""


class Check:
    """What all checks have.

    Attributes:
        machine: the emulated one.
        out: folder of the logs.
        frames: of the sample drive, for what takes long; one of FRAMES.
        cases: of each test, at most.
        log: log of the check that runs.
        end_s: when its share of the time is over, monotonic.
    """

    def __init__(self, machine: Machine, out: Path, frames: int, cases: int = CASES) -> None:
        self.machine, self.out, self.frames, self.cases = machine, out, frames, cases
        self.log, self.end_s = out / "log.txt", 0.0

    def there(self, *command: str, status: int = 0) -> str:
        """Run Python there; returns its output.

        Raises:
            Failed: its status is another one.
            subprocess.TimeoutExpired: the share is over.
        """
        return self._python(self.machine.words(["python3", *command]), self.log, status)

    def here(self, *command: str) -> str:
        """Run Python of this machine in the checkout, likewise."""
        return self._python([sys.executable, *command], self.out / "here.log", 0)

    def _python(self, words: Sequence[str], log: Path, status: int) -> str:
        done = run(words, log, self.end_s - time.monotonic())
        text = log.read_text(encoding="utf-8", errors="replace")
        if done != status:
            last = (text.strip().splitlines() or ["nothing printed"])[-1]
            raise Failed(f"{Path(words[0]).name}: status {done}: {last}")
        return text

    # Checks: each returns what was seen, in one line.

    def processor(self) -> str:
        """What the emulated machine is."""
        words = "os.environ['QEMU_CPU'], platform.machine(), platform.python_version(), "
        words += "*platform.libc_ver(), sys.byteorder + '-endian', f'pages of {mmap.PAGESIZE}'"
        text = self.there("-c", f"import mmap, os, platform, sys; print({words})").strip()
        if " aarch64 " not in text:
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

    def scaled(self) -> str:
        """Frames as the network sees them; OpenCV has kernels for arm64 that round otherwise."""
        self.there("packaging/network_inputs.py", str(SAMPLE_FRAMES // self.frames), "/tmp/scaled")
        ours, theirs = map(pictures, (self._drive(), self.machine.path("tmp/scaled")))
        apart = np.abs(ours - theirs)
        text = f"{len(ours)} frames, {np.mean(apart > 0):.1%} of the bytes differ"
        if apart.max() > SCALED_APART:
            raise Failed(f"{text}, by {apart.max()} at most")
        return f"{text}, none by more than {SCALED_APART}"

    def sample(self) -> str:
        """The sample drive in LiteRT, scaled there."""
        words = ["bags/sample_sqlite3", "--every", "5", "--backend", "litert"]
        return self._replay("sample", words, words)

    def replay(self, backend: str) -> str:
        """Frames that were scaled here, and the objects that are found here."""
        ours, theirs = (
            [drive, "--backend", backend] for drive in (str(self._drive()), "/tmp/drive")
        )
        return self._replay(backend, ours, theirs)

    def _replay(self, name: str, ours: Sequence[str], theirs: Sequence[str]) -> str:
        replay = ["-m", "perception_nodes", "replay", "--no-pictures", "--threads", "1"]
        here, there = (self.out / f"replay-{name}-{place}" for place in ("x86-64", "arm64"))
        self.here(*replay, *ours, "--out", str(here))
        self.there(*replay, *theirs, "--out", f"/tmp/{there.name}")
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(self.machine.path(f"tmp/{there.name}"), there)
        seen, far = recordings_apart(here, there, same=name == EXACT)
        if far:
            raise Failed(f"too far from x86-64: {seen}")
        return seen

    def tensors(self, runtime: str) -> str:
        """Each output tensor of a runtime, and its objects, for frames that were scaled here."""
        words, drive = ["packaging/network_outputs.py", runtime], self._drive()
        here, there = (self.out / f"tensors-{runtime}-{name}.npz" for name in ("x86-64", "arm64"))
        self.here(*words, str(drive), str(here))
        self.there(*words, "/tmp/drive", f"/tmp/{there.name}")
        shutil.copyfile(self.machine.path(f"tmp/{there.name}"), there)
        lines, exact, wrong = differences(np.load(here), np.load(there), same=runtime == EXACT)
        print("\n".join(f"   {line}" for line in lines), flush=True)
        if wrong:
            raise Failed(f"too far from x86-64: {'; '.join(wrong)}")
        return f"{exact} of {len(lines)} to the bit in {self.frames} frames; {lines[-1]}"

    def _drive(self) -> Path:
        """Frames of the sample in the network's size, scaled here; there they are /tmp/drive."""
        drive, there = self.out / "drive", self.machine.path("tmp/drive")
        if not there.is_dir():
            shutil.rmtree(drive, ignore_errors=True)
            every = str(SAMPLE_FRAMES // self.frames)
            self.here("packaging/network_inputs.py", every, str(drive))
            shutil.copytree(drive, there)
        return drive

    def imported(self) -> str:
        """A small detector as an exporter writes it."""
        write = "import pathlib, sys; sys.path.insert(0, 'test/networks'); import numpy as np; "
        write += "from toy_detectors import cells, detector, written; "
        write += "rows = np.full((1, 7, cells(8, 16, 32)), 0.5, np.float32); rows[:, :4] = 20.5; "
        write += "written(detector({'output0': rows}), pathlib.Path('/tmp/toy.onnx'))"
        self.there("-c", write)
        words = ["import", "/tmp/toy.onnx", "--name", "toy", "--classes", "car,bus,truck"]
        words += ["--size", "96x64", "--license", "Apache-2.0", "--out", "/tmp/models"]
        text = self.there("-m", "perception_nodes", "model", *words)
        if not self.machine.path("tmp/models/toy/model.yaml").is_file():
            raise Failed("there is no model.yaml")
        return next(line for line in text.splitlines() if line.startswith("toy.onnx is "))

    def compiled(self, backend: str) -> str:
        """Checked against the integer network and the parent, on frames of the sample."""
        words = ["compile", "open-n", "--backend", backend, "--frames", COMPILE_FRAMES]
        text = self.there("-m", "perception_nodes", "model", *words, "--threads", "1", "--json")
        compared = json.loads(text[text.index("{") :])["checks"]
        seen = [f"{one['reference']}: {one['measure']} {one['value']:.2f}" for one in compared]
        if not seen:
            raise Failed("it tells no agreement with the integer network")
        return "; ".join(seen)

    def tests(self, paths: Sequence[str]) -> str:
        """Tests of ours, without what needs iceoryx2 or ROS."""
        options = ["-q", "-ra", "--durations=20", "-p", "no:cacheprovider"]
        options += ["-p", "no:endpoint_fixtures", f"--cases={self.cases}", f"--examples={EXAMPLES}"]
        if CORES > 1:
            options += ["-n", str(CORES), "--dist", "loadfile"]
        end_s = time.time() + self.end_s - time.monotonic() - END_S
        options += [f"--deselect={test}" for test in LEFT_OUT]
        options += ["-p", "without_ros", "--end-at", f"{end_s:.0f}"]
        try:
            text = self.there("-m", "pytest", *options, *paths)
        except subprocess.TimeoutExpired as error:
            raise progress(self.log.read_text(encoding="utf-8", errors="replace")) from error
        summary = text.strip().splitlines()[-1].strip("= ")
        if not re.search(r"\b[1-9]\d* passed", summary):
            raise Failed(f"no test has passed: {summary}")
        if cut := sum(map(int, re.findall(r"^SKIPPED \[(\d+)\] .*: cut: ", text, re.MULTILINE))):
            raise Cut(f"{summary}; {cut} of the skipped ones are cut")
        return summary


def progress(log: str) -> Cut | Failed:
    """What is known of a suite that was killed: pytest prints a letter a test."""
    letters = Counter("".join(re.findall(r"^([.sxXFE]+)(?: +\[ *\d+%\])?$", log, re.MULTILINE)))
    failed = letters["F"] + letters["E"]
    seen = f"{letters['.']} passed, {failed} failed, {letters['s']} skipped, all others are cut"
    return Failed(seen) if failed else Cut(seen)


def alignment(path: Path) -> int:
    """The least alignment of a library's loaded segments, 0 if it is no library of 64 bits."""
    data = path.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        return 0
    start, size, count = *struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54)
    heads = [struct.unpack_from("<2I6Q", data, start + n * size) for n in range(count)]
    return min((head[7] for head in heads if head[0] == 1), default=0)


def pictures(folder: Path) -> np.ndarray:
    """The pictures of a folder, int16 [number, height, width, 3]."""
    paths = sorted(folder.glob("*.png"))
    return np.stack([cv2.imread(str(path)) for path in paths]).astype(np.int16)


COMMANDS: dict[str, Callable[[Check], str]] = {
    "processor": Check.processor,
    "pages of 64 kB": Check.pages,
    "doctor": Check.doctor,
    "frames scaled": Check.scaled,
    "tensors, golden": partial(Check.tensors, runtime="golden"),
    "tensors, litert": partial(Check.tensors, runtime="litert"),
    "replay, golden": partial(Check.replay, backend="golden"),
    "replay of the sample, litert": Check.sample,
    "model import": Check.imported,
    "tensors, onnxruntime": partial(Check.tensors, runtime="onnxruntime"),
    "tensors, openvino": partial(Check.tensors, runtime="openvino"),
    "replay, onnxruntime": partial(Check.replay, backend="onnxruntime"),
    "replay, openvino": partial(Check.replay, backend="openvino"),
    "model compile, litert": partial(Check.compiled, backend="litert"),
}
LEFT_OUT = (
    # Judge weights by many pictures, for minutes each; tensors are compared anyway.
    "test/networks/test_model.py::test_it_sees_what_its_parent_sees",
    "test/backends/test_backends.py::TestAgreement::test_the_runtimes_find_the_same_objects",
    "test/backends/test_golden.py::TestShippedModels::test_the_runtimes_are_golden_at_the_end"
    "[open-m]",  # of 2 GMAC
    # Hear the emulator's own words, or OpenVINO's on a kernel that tells of no arm64 processor.
    "test/backends/test_serving.py::test_a_crash_of_the_build_is_told",
    "test/backends/test_serving.py::test_the_real_build_leaves_its_files_in_the_cache",
    # The emulator reports no program that is missing.
    "test/backends/test_serving.py::test_a_build_that_cannot_be_started",
    # Times x86's matrix tiles, which arm64 has not.
    "test/backends/test_instructions.py::test_both_are_timed_in_processes_that_have_them",
)
SUITES = {
    "C and C++": (0.1, "test/protection/test_cpp.py"),
    "preprocess": (0.25, "test/preprocess"),
    "core": (0.25, "test/core"),
    "import": (0.35, "test/networks"),
    "backends": (0.6, "test/backends"),
    # That of a corpus kills and restarts processes, whose start alone takes seconds in emulation.
    "replay of single drives": (1.0, "test/replay", "--ignore=test/replay/test_corpus.py"),
}
CHECKS = {name: (0.25, do) for name, do in COMMANDS.items()} | {
    f"tests, {name}": (share, partial(Check.tests, paths=paths))
    for name, (share, *paths) in SUITES.items()
}
"""By name: which share of the time that is left it may take, and what it does."""
