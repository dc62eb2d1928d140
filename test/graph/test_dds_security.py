"""A keystore at work: Fast DDS itself, with security on, lets enclaves do what they may.

The Fast DDS of the ROS wheels is built without security. Debian's is not, and an endpoint of it
stands in for a node: `secured.cpp`. `make security-packages` installs it.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from perception_nodes.graph.graph import VEHICLE
from perception_nodes.graph.interface import Interface, interfaces
from perception_nodes.graph.keystore import make_keystore

pytestmark = [
    pytest.mark.skipif(
        not Path("/usr/include/fastdds/dds").is_dir() or shutil.which("c++") is None,
        reason="Fast DDS's headers are not installed (make security-packages)",
    )
]
DONE, DENIED, REFUSED, ALONE = range(4)
DOMAIN = 102 + os.getpid() % 100
DETECTIONS, SAFE_STOP = "rt/perception/detections", "rt/perception/safe_stop"
READER = Interface(set(), {"/perception/detections"}, set(), set())


@pytest.fixture(scope="module")
def keystore(tmp_path_factory):
    """That of a graph, with an enclave for somebody who reads the detections."""
    folder = tmp_path_factory.mktemp("dds") / "keystore"
    specs = VEHICLE.nodes({"standby": "never"})
    enclaves = {spec.enclave: interfaces(specs)[spec.full_name] for spec in specs}
    make_keystore(folder, {**enclaves, "/planner": READER}, DOMAIN, days=1)
    return folder


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "secured"
    source = Path(__file__).with_name("secured.cpp")
    subprocess.run(["c++", "-std=c++17", source, "-o", path, "-lfastdds", "-lfastcdr"], check=True)
    return path


class Endpoint:
    """A process with one endpoint, which ends when its message is handed over."""

    def __init__(self, program, enclave, action, topic, patience_s=20):
        command = [program, str(enclave), str(DOMAIN), action, topic, str(patience_s)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def end(self):
        self._process.communicate()
        return self._process.returncode


def enclave_of(keystore, name):
    return keystore / "enclaves" / name


def test_the_detector_is_heard_by_who_may_hear_it_and_by_nobody_else(program, keystore):
    enclave = enclave_of(keystore, "perception/detector_node")
    detector = Endpoint(program, enclave, "publish", DETECTIONS)
    stranger = Endpoint(program, "none", "subscribe", DETECTIONS, 6)
    planner = Endpoint(program, enclave_of(keystore, "planner"), "subscribe", DETECTIONS)
    assert (detector.end(), planner.end()) == (DONE, DONE)
    assert stranger.end() == ALONE


@pytest.mark.parametrize(
    ("enclave", "action", "topic"),
    [
        ("perception/preprocess_node", "publish", DETECTIONS),
        ("perception/preprocess_node", "publish", SAFE_STOP),
        ("perception/detector_node", "subscribe", DETECTIONS),
        ("planner", "publish", DETECTIONS),
        ("planner", "subscribe", "rt/rosout"),
    ],
)
def test_what_no_permission_allows_is_denied(program, keystore, enclave, action, topic):
    assert Endpoint(program, enclave_of(keystore, enclave), action, topic).end() == DENIED


def test_an_enclave_of_another_authority_is_not_heard(program, keystore, tmp_path):
    make_keystore(
        tmp_path / "forged",
        {"/perception/detector_node": Interface({"/perception/detections"}, set(), set(), set())},
        DOMAIN,
        days=1,
    )
    forged = enclave_of(tmp_path / "forged", "perception/detector_node")
    liar = Endpoint(program, forged, "publish", DETECTIONS, 6)
    planner = Endpoint(program, enclave_of(keystore, "planner"), "subscribe", DETECTIONS, 6)
    assert (liar.end(), planner.end()) == (ALONE, ALONE)


def test_changed_permissions_are_refused(program, keystore, tmp_path):
    shutil.copytree(keystore, tmp_path / "keystore", symlinks=True)
    enclave = enclave_of(tmp_path / "keystore", "planner")
    signed = enclave / "permissions.p7s"
    other = signed.read_bytes().replace(b"rt/perception/detections", b"rt/perception/safe_stop")
    signed.write_bytes(other)
    assert Endpoint(program, enclave, "subscribe", DETECTIONS).end() == REFUSED
