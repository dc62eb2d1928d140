"""The channel as it is written down for others: the page, the C header, a camera in C++."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from viewer import Viewer

from perception_nodes.cameras.camera_source import CameraError, CameraGone
from perception_nodes.cameras.channel import (
    CAMERA_BORROWED,
    CAMERA_DEPTH,
    CameraHeader,
    camera_reader,
    view_camera_frame,
)
from perception_nodes.cameras.library_source import VERSION, LibraryFormat, LibrarySource
from perception_nodes.transport.domain import config_of
from perception_nodes.transport.shm import MAX_PROCESSES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "interfaces/camera"
PAGE = (ROOT / "docs/reference/camera-channel.md").read_text(encoding="utf-8")
STRICT = ("-Wall", "-Wextra", "-Werror", "-I", str(FOLDER))
CC, CXX = os.environ.get("CC", "cc"), os.environ.get("CXX", "c++")


def compiled(compiler, *arguments):
    subprocess.run([compiler, *STRICT, *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The example of the documentation."""
    path = tmp_path_factory.mktemp("library") / "libmoving_bar.so"
    compiled(CXX, "-std=c++17", "-shared", "-fPIC", FOLDER / "moving_bar.cpp", "-o", path)
    return path


def layout(structure):
    return {name: getattr(structure, name).offset for name, *_ in structure._fields_}


@pytest.mark.parametrize(("compiler", "standard"), [(CC, "c11"), (CXX, "c++17")])
def test_the_header_has_the_layout_and_the_constants_of_the_channel(tmp_path, compiler, standard):
    structures = {"CameraHeader": CameraHeader, "PerceptionCameraFormat": LibraryFormat}
    offsets = [
        f'printf("%zu\\n", offsetof(struct {name}, {field}));'
        for name, structure in structures.items()
        for field in layout(structure)
    ]
    sizes = [f'printf("%zu\\n", sizeof(struct {name}));' for name in structures]
    texts = ["PREFIX", "SERVICE", "HEADER_TYPE", "PAYLOAD_TYPE"]
    numbers = ["VERSION", "DEPTH", "BORROWED", "ENDS"]
    lines = [*offsets, *sizes, *(f"puts(PERCEPTION_CAMERA_{name});" for name in texts)]
    lines += [f'printf("%d\\n", (int)PERCEPTION_CAMERA_{name});' for name in numbers]
    source = tmp_path / ("layout.c" if standard == "c11" else "layout.cpp")
    source.write_text(
        '#include "perception_camera.h"\n#include <stdio.h>\nint main(void) {'
        + "\n".join(lines)
        + "return 0; }"
    )
    compiled(compiler, f"-std={standard}", source, "-o", tmp_path / "layout")
    said = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True).stdout
    expected = [offset for one in structures.values() for offset in layout(one).values()]
    expected += [ctypes.sizeof(one) for one in structures.values()]
    prefix = config_of(77).global_cfg.prefix.to_string()
    expected += [prefix.replace("77", "%u"), "perception/%s/camera", CameraHeader.__name__, "u8"]
    expected += [VERSION, CAMERA_DEPTH, CAMERA_BORROWED, MAX_PROCESSES]
    assert said.split() == list(map(str, expected))


def test_the_page_has_the_layout_and_the_depths_of_the_channel():
    rows = re.findall(r"^\| ([\d, ]+) \| ([`\w, ]+) \| (\w+(?:\[\d+\])?) \|", PAGE, re.MULTILINE)
    documented = {
        name.strip(" `"): (int(offset), kind)
        for offsets, names, kind in rows
        for offset, name in zip(offsets.split(","), names.split(","), strict=True)
    }
    kinds = {"c_ulong": "uint64", "c_long": "int64", "c_uint": "uint32"}
    assert documented == {
        name: (
            getattr(CameraHeader, name).offset,
            kinds.get(kind.__name__) or f"char[{ctypes.sizeof(kind)}]",
        )
        for name, kind in CameraHeader._fields_
    }
    assert f"| history, buffer, borrowed | 0, {CAMERA_DEPTH}, {CAMERA_BORROWED};" in PAGE
    ends = MAX_PROCESSES
    assert f"| publishers, subscribers, nodes | at most {ends}, {ends}, {2 * ends} |" in PAGE
    assert f"notifiers and listeners at most {ends}, {ends}, nodes {2 * ends} |" in PAGE


def test_the_pages_producer_fills_the_channel(join, ros_domain, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    reader, seen = camera_reader(join("reader"), "front"), []

    def next_frame(seconds):
        while (sample := reader.receive()) is not None:
            view = view_camera_frame(sample.header, sample.payload)
            seen.append((sample.header.number, view.encoding, view.width, view.height, view.step))
            assert bytes(view.data[:3]) == b"\x80\x80\x80" and len(view.data) == 1280 * 720 * 3
            sample.release()

    monkeypatch.setattr(time, "sleep", next_frame)
    exec(compile(code, "docs/reference/camera-channel.md", "exec"), {})
    assert seen == [(number, "bgr8", 1280, 720, 1280 * 3) for number in range(100)]


def test_a_camera_in_cpp_fills_the_channel(join, library):
    viewer = Viewer(join, LibrarySource(f"{library}:5"), lambda sample: time.time_ns())
    starts = []
    for seen in viewer.take(8):  # after five frames it is gone, and comes back
        starts.append(int(np.flatnonzero(seen.luma[0] == 255)[0]))
        columns = np.arange(320)
        is_bar = (starts[-1] <= columns) & (columns < starts[-1] + 16)
        assert (seen.luma == np.where(is_bar, 255, 90)).all() and len(seen.luma) == 240
        assert seen.encoding == "mono8"
        assert abs(seen.looked - seen.stamp_ns) < 1_000_000_000
    assert [seen.number for seen in viewer.found[:8]] == list(range(8))
    assert starts[:8] == [4 * (n % 5) for n in range(8)]
    assert viewer.log[0].endswith("mono8 320x240 at 50 Hz, no copy")
    assert "the camera is gone" in viewer.log[1]


def test_a_library_that_does_not_return_ends_the_process(tmp_path):
    path = tmp_path / "libblocked.so"
    (tmp_path / "blocked.cpp").write_text(
        """
        #include "perception_camera.h"
        #include <unistd.h>
        uint32_t perception_camera_version(void) { return PERCEPTION_CAMERA_VERSION; }
        void *perception_camera_open(const char *, PerceptionCameraFormat *format) {
            format->size_bytes = 1;
            return format;
        }
        int perception_camera_capture(void *, uint8_t *, CameraHeader *, uint32_t timeout_ms) {
            while (timeout_ms == 7) pause();
            return PERCEPTION_CAMERA_TIMEOUT;
        }
        void perception_camera_close(void *) {}
        """
    )
    compiled(CXX, "-std=c++17", "-shared", "-fPIC", tmp_path / "blocked.cpp", "-o", path)
    code = """
import sys, time
from types import SimpleNamespace
import numpy as np
from perception_nodes.cameras import library_source as library
from perception_nodes.cameras.channel import CameraHeader
library.BLOCKED_S = 0.2
slot = SimpleNamespace(header=CameraHeader(), payload=np.zeros(1, np.uint8))
source = library.LibrarySource(sys.argv[1])
source.open()
source.start(SimpleNamespace(loan=lambda size_bytes: slot))
source.capture(1.0)
time.sleep(0.4)
print("alive", flush=True)
source.capture(7.0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (-signal.SIGALRM, "alive\n"), done.stderr


def test_what_is_no_camera_library_is_refused(tmp_path, library):
    with pytest.raises(CameraGone, match="'many' is not a number of frames"):
        LibrarySource(f"{library}:many").open()
    with pytest.raises(CameraError, match="none.so is no camera library"):
        LibrarySource(str(tmp_path / "none.so")).open()
    other = tmp_path / "other.cpp"
    other.write_text('extern "C" unsigned perception_camera_version() { return 9; }\n')
    compiled(CXX, "-shared", "-fPIC", other, "-o", tmp_path / "libother.so")
    with pytest.raises(CameraError, match="perception_camera_open"):
        LibrarySource(str(tmp_path / "libother.so")).open()
