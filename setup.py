"""Install perception_nodes; what package.xml says is not said again here."""

import os
import sys
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
MANIFEST = ElementTree.parse(ROOT / "package.xml")
NAME = MANIFEST.findtext("name")
ROS = os.environ.get("PERCEPTION_ROS", "kilted")  # whose wheels are required


def shared(*patterns: str) -> list[tuple[str, list[str]]]:
    """List the files that match the patterns, by their folder below share/."""
    files = sorted(
        path.relative_to(ROOT)
        for pattern in patterns
        for path in ROOT.glob(pattern)
        if path.is_file()
    )
    return [
        (f"share/{NAME}/{folder}", [str(path) for path in group])
        for folder, group in groupby(files, key=lambda path: path.parent)
    ]


def requirements(*names: str) -> list[str]:
    """List what files in requirements/ ask for, with its versions."""
    lines = [
        line.partition("#")[0].strip()
        for name in names
        for line in (ROOT / "requirements" / name).read_text().splitlines()
    ]
    return [line for line in lines if line and not line.startswith("-")]


# A wheel's console scripts are on the PATH already.
ON_PATH = [] if "bdist_wheel" in sys.argv else [("bin", ["resource/bin/perception"])]

setup(
    name=NAME,
    version=MANIFEST.findtext("version"),
    description=" ".join(MANIFEST.findtext("description").split()),
    maintainer=MANIFEST.findtext("maintainer"),
    maintainer_email=MANIFEST.find("maintainer").get("email"),
    license=" AND ".join(one.text for one in MANIFEST.iter("license")),
    license_files=["LICENSE", "models/NOTICE"],
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        NAME: [
            "gpu/kernels/*.cu*",
            "faults/scenarios/*.yaml",
            "graph/templates/*.j2",
            "networks/heads.yaml",
            "report/assets/*",
            "report/templates/*.j2",
            "view/page/*",
        ]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *ON_PATH,
        *shared(
            "launch/*.launch.py",
            "config/*",
            "systemd/*",
            "models/*",
            "models/*/*",
            "calibration/**/*",
            "model_compression/__init__.py",
            "model_compression/exporters/*",
            "requirements/baseline*.txt",
            "requirements/lock.txt",
            "requirements/runtime.txt",
        ),
        *shared("interfaces/*.py", "interfaces/*/CMakeLists.txt", "interfaces/*/package.xml"),
        *shared("interfaces/*/msg/*.msg", "interfaces/camera/*", "bags/make_sample.py"),
        *shared("interfaces/perception_consumer/include/*/*"),
    ],
    # Where a ROS distribution is installed, colcon and rosdep do not look at these.
    install_requires=requirements("runtime.txt", f"{ROS}/runtime.txt"),
    extras_require={
        "messages": requirements("build.txt", f"{ROS}/build.txt"),
        "gpu": requirements("gpu.txt"),
        "fleet": requirements("fleet.txt"),
        "test": ["pytest"],  # colcon test looks for it
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "perception = perception_nodes.__main__:main",
            "preprocess_node = perception_nodes.nodes.preprocess_node:PreprocessNode.main",
            "detector_node = perception_nodes.nodes.detector_node:DetectorNode.main",
            "watchdog_node = perception_nodes.nodes.watchdog_node:WatchdogNode.main",
            "player_node = perception_nodes.nodes.player_node:PlayerNode.main",
            "camera_node = perception_nodes.nodes.camera_node:CameraNode.main",
            "republish_node = perception_nodes.nodes.republish_node:RepublishNode.main",
            "tracker_node = perception_nodes.nodes.tracker_node:TrackerNode.main",
            "view_node = perception_nodes.nodes.view_node:ViewNode.main",
        ]
    },
)
