"""The wheel of the message packages."""

import base64
import csv
import hashlib
import sys
import zipfile

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

PACKAGES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
FILES = {
    "lib/libvision_msgs__rosidl_generator_c.so": True,
    f"{PACKAGES}/vision_msgs/msg/_detection2_d.py": True,
    f"{PACKAGES}/vision_msgs-4.1.1.egg-info/PKG-INFO": False,
    "include/vision_msgs/vision_msgs/msg/detection2_d.h": False,
    "share/vision_msgs/cmake/vision_msgsConfig.cmake": False,
    "share/vision_msgs/environment/path.sh": False,
    "share/vision_msgs/local_setup.bash": False,
    "share/vision_msgs/msg/Detection2D.msg": True,
    "share/vision_msgs/package.dsv": False,
    "share/ament_index/resource_index/packages/vision_msgs": True,
    "share/ament_index/resource_index/parent_prefix_path/vision_msgs": False,
}
"""Installed files, and whether they are in the wheel."""


@pytest.fixture
def wheel(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(root / "interfaces")
    import pack

    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"contents of {name}")
    monkeypatch.setattr(pack.sysconfig, "get_path", lambda _: str(tmp_path / PACKAGES))
    return pack.write_wheel(tmp_path, FILES, "0.1.0", tmp_path / "dist")


def test_it_is_for_this_python_alone(wheel):
    name, version, _, tags = parse_wheel_filename(wheel.name)
    assert (name, str(version)) == ("perception-messages", "0.1.0")
    assert tags <= set(sys_tags())
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert {tag.interpreter for tag in tags} == {version}


def test_it_holds_what_runs_and_nothing_of_this_machine(wheel):
    with zipfile.ZipFile(wheel) as file:
        contents = {file.read(name).decode() for name in file.namelist()}
        names = file.namelist()
    assert {name for name in FILES if f"contents of {name}" in contents} == {
        name for name, packed in FILES.items() if packed
    }
    # Where installers put them: below the environment, and among the packages.
    assert "perception_messages-0.1.0.data/data/lib/libvision_msgs__rosidl_generator_c.so" in names
    assert "vision_msgs/msg/_detection2_d.py" in names


def test_its_record_is_right(wheel):
    with zipfile.ZipFile(wheel) as file:
        record = file.read("perception_messages-0.1.0.dist-info/RECORD").decode()
        rows = {name: (digest, size) for name, digest, size in csv.reader(record.splitlines())}
        assert set(rows) == set(file.namelist())
        for name, (digest, size) in rows.items():
            data = file.read(name)
            if not name.endswith("/RECORD"):
                expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
                assert (digest, size) == (f"sha256={expected.rstrip('=')}", str(len(data)))
