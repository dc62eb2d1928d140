"""Keystores of SROS 2: documents by OMG's schema, signatures that OpenSSL verifies, rights."""

import re
import shutil
import stat
import subprocess
from xml.etree import ElementTree

import pytest

from perception_nodes.cli.security import security_command
from perception_nodes.graph.graph import VEHICLE
from perception_nodes.graph.interface import Interface, interfaces
from perception_nodes.graph.keystore import KeystoreError, dds_topics, make_keystore
from perception_nodes.graph.ros_arguments import split_ros_arguments
from perception_nodes.graph.settings import SettingsError

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
SCHEMA = {
    # DDS Security 1.1, 9.4.1.2.3 and 9.4.1.3: which elements are in which, in which order.
    "dds": "(domain_access_rules|permissions)",
    "domain_access_rules": "(domain_rule)+",
    "domain_rule": "domains allow_unauthenticated_participants enable_join_access_control "
    "discovery_protection_kind liveliness_protection_kind rtps_protection_kind topic_access_rules",
    "domains": "(id|id_range)+",
    "topic_access_rules": "(topic_rule)+",
    "topic_rule": "topic_expression enable_discovery_protection enable_liveliness_protection "
    "enable_read_access_control enable_write_access_control metadata_protection_kind "
    "data_protection_kind",
    "permissions": "(grant)+",
    "grant": "subject_name validity (allow_rule|deny_rule)+ default",
    "validity": "not_before not_after",
    "allow_rule": "domains (publish)* (subscribe)* (relay)*",
    "publish": "topics",
    "subscribe": "topics",
    "topics": "(topic)+",
}
KIND = "(ENCRYPT|SIGN)(_WITH_ORIGIN_AUTHENTICATION)?|NONE"
CONTENT = {
    "id": r"\d+",
    "subject_name": r"CN=/[\w/]+",
    "not_before": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d",
    "not_after": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d",
    "topic": r"r[tqr]/[\w/]+|ros_discovery_info",
    "topic_expression": r"\*",
    "default": "ALLOW|DENY",
    "data_protection_kind": "ENCRYPT|SIGN|NONE",
}
OUTPUTS = {"/perception/health", "/perception/safe_stop", "/perception/detections"}


def check_schema(element):
    children = [child.tag for child in element]
    if element.tag in SCHEMA:
        order = re.sub(r"(\w+)", r"(?:\1,)", SCHEMA[element.tag]).replace(" ", "")
        assert re.fullmatch(order, "".join(f"{child}," for child in children)), element.tag
    else:
        usual = "true|false" if element.tag[:5] in ("allow", "enabl") else KIND
        assert re.fullmatch(CONTENT.get(element.tag, usual), element.text or ""), element.tag
        assert not children
    for child in element:
        check_schema(child)


def rights(*arguments):
    others, ros = split_ros_arguments(arguments)
    values = dict(text.split(":=", 1) for text in others)
    return interfaces(VEHICLE.nodes({"standby": "always", **values}, ros), ros)


@pytest.fixture(scope="module")
def keystore(tmp_path_factory):
    folder = tmp_path_factory.mktemp("security") / "keystore"
    security_command(folder, ["tracks:=true", "source:=v4l2:/dev/video0"], days=30)
    return folder


def test_every_document_is_as_the_schema_says(keystore):
    documents = sorted(keystore.rglob("*.xml"))
    assert len(documents) == 9  # the governance and eight nodes
    for document in documents:
        check_schema(ElementTree.parse(document).getroot())


@needs_openssl
def test_openssl_verifies_documents_and_certificates(keystore):
    def openssl(*arguments):
        command = ["openssl", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True).stdout

    for enclave in (key.parent for key in keystore.glob("enclaves/**/key.pem")):
        authority = enclave / "permissions_ca.cert.pem"
        for name in ("permissions", "governance"):
            signed = (enclave / f"{name}.p7s").resolve()
            smime = ("smime", "-verify", "-text", "-in", signed, "-CAfile", authority)
            text = openssl(*smime).replace(b"\r\n", b"\n")
            assert text == signed.with_suffix(".xml").read_bytes()
        openssl("verify", "-CAfile", enclave / "identity_ca.cert.pem", enclave / "cert.pem")
        public = openssl("x509", "-in", enclave / "cert.pem", "-noout", "-pubkey")
        assert openssl("pkey", "-in", enclave / "key.pem", "-pubout") == public
        subject = openssl("x509", "-in", enclave / "cert.pem", "-noout", "-subject").decode()
        granted = ElementTree.parse(enclave / "permissions.xml").findtext(".//subject_name")
        assert subject.strip().replace(" ", "") == f"subject={granted}"


def test_private_keys_are_their_owners_alone(keystore):
    keys = [path for path in keystore.rglob("*key.pem") if not path.is_symlink()]
    assert len(keys) == 9
    assert {stat.S_IMODE(key.stat().st_mode) for key in keys} == {0o600}


def test_a_keystore_is_not_overwritten_and_nothing_is_left_of_one_that_fails(tmp_path, keystore):
    before = (keystore / "private/ca.key.pem").read_bytes()
    with pytest.raises(KeystoreError, match="exists; name another folder"):
        make_keystore(keystore, {}, 0, 1)
    assert (keystore / "private/ca.key.pem").read_bytes() == before
    with pytest.raises(AttributeError):
        make_keystore(tmp_path / "new", {"/perception/x": None}, 0, 1)
    assert list(tmp_path.iterdir()) == []


def test_only_those_who_must_speak_of_health_may():
    may = rights("tracks:=true", "view:=true", "source:=v4l2:/dev/video0")
    speakers = {name for name, its in may.items() if "/perception/safe_stop" in its.publishes}
    assert speakers == {"/watchdog_node", "/detector_node", "/detector_standby_node"}
    assert not OUTPUTS & may["/preprocess_node"].publishes
    assert not OUTPUTS & may["/camera_node"].publishes


def test_topics_and_services_of_ros_by_their_names_in_dds():
    assert dds_topics(Interface({"/a"}, {"/b"}, {"/n/serve"}, {"/m/call"})) == {
        "publish": {"rt/a", "rr/n/serveReply", "rq/m/callRequest", "ros_discovery_info"},
        "subscribe": {"rt/b", "rq/n/serveRequest", "rr/m/callReply", "ros_discovery_info"},
    }


@pytest.mark.parametrize(
    ("arguments", "node", "topic"),
    [
        ([], "/detector_node", "/perception/detections"),
        (["cameras:=left,right"], "/detector_node", "/perception/right/detections"),
        (["--ros-args", "-r", "__ns:=/truck"], "/truck/detector_node", "/truck/perception/health"),
        (["--ros-args", "-r", "perception/detections:=found"], "/detector_node", "/found"),
        (["--ros-args", "-r", "detector_node:/rosout:=/told"], "/detector_node", "/told"),
        (["--ros-args", "-r", "~/transition_event:=/t"], "/detector_node", "/t"),
        (["--ros-args", "-r", "watchdog_node:/rosout:=/told"], "/detector_node", "/rosout"),
    ],
    ids=str,
)
def test_names_are_those_of_the_graph(arguments, node, topic):
    assert topic in rights(*arguments)[node].publishes


def test_each_node_is_told_its_enclave_only_where_security_is_on(monkeypatch):
    spec = VEHICLE.nodes({"standby": "never"})[0]
    assert "--enclave" not in spec.arguments()
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    flag = spec.arguments().index("--enclave")
    assert spec.arguments()[flag + 1] == "/perception/watchdog_node"
    _, ros = split_ros_arguments(["--ros-args", "-e", "/mine"])
    assert "--enclave" not in VEHICLE.nodes({"standby": "never"}, ros)[0].arguments()


def test_a_keystore_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="^KEYSTORE .*/file/keystore cannot be written: Not a"):
        security_command(tmp_path / "file/keystore", [], days=30)
