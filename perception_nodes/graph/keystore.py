"""A keystore of SROS 2 for a graph: who each node is, and what it may publish and subscribe to.

The layout of files, the governance and the algorithms are those of `ros2 security`, which can add
enclaves for nodes of other packages. The documents are those of OMG DDS Security 1.1, chapter 9.
"""

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7
from jinja2 import FileSystemLoader

from perception_nodes.core.errors import PerceptionError
from perception_nodes.graph.interface import Interface
from perception_nodes.report.page import ENVIRONMENT
from perception_nodes.system.files import staged, write_new, write_whole

AUTHORITIES = ("identity_ca", "permissions_ca")
"""Authorities for names and for permissions, which are one here."""
DISCOVERY = "ros_discovery_info"
"""Topic on which ROS publishes which node has which endpoints."""
_TEMPLATES = FileSystemLoader(Path(__file__).parent / "templates")
_DOCUMENTS = ENVIRONMENT.overlay(loader=_TEMPLATES, keep_trailing_newline=True)


class KeystoreError(PerceptionError):
    """The keystore cannot be made; the text says why."""


class Authority:
    """The holder of the key that signs certificates and documents."""

    def __init__(self, days: int) -> None:
        """Make a key and its certificate, valid for a number of days."""
        now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        self.begin, self.end = now - datetime.timedelta(days=1), now + datetime.timedelta(days=days)
        self.key, self._name = ec.generate_private_key(ec.SECP256R1()), _name("perception_ca")
        self.certificate = self._certified(self._name, self.key.public_key(), is_authority=True)

    def certify(self, name: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """A certificate that a key is the named enclave's."""
        return self._certified(_name(name), key.public_key(), is_authority=False)

    def sign(self, document: bytes) -> bytes:
        """A document with its signature, as S/MIME."""
        builder = pkcs7.PKCS7SignatureBuilder().set_data(document)
        signed = builder.add_signer(self.certificate, self.key, hashes.SHA256())
        options = [pkcs7.PKCS7Options.Text, pkcs7.PKCS7Options.DetachedSignature]
        return signed.sign(serialization.Encoding.SMIME, options)

    def _certified(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, is_authority: bool
    ) -> x509.Certificate:
        constraints = x509.BasicConstraints(is_authority, 1 if is_authority else None)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begin)
            .not_valid_after(self.end)
            .add_extension(constraints, critical=is_authority)
            .sign(self.key, hashes.SHA256())
        )


def make_keystore(folder: Path, enclaves: Mapping[str, Interface], domain: int, days: int) -> None:
    """Write the keystore: an authority, and an enclave for each name.

    Args:
        folder: is made; private keys in it are readable by this user alone.
        enclaves: interface of each enclave's node, by the enclave's name (`/perception/...`).
        domain: ROS domain that the permissions are for.
        days: how long certificates and permissions are valid.

    Raises:
        KeystoreError: the folder exists.
        OSError: it cannot be written.
    """
    if folder.exists():
        raise KeystoreError(f"{folder} exists; name another folder, or remove that one")
    with staged(folder.parent) as stage:
        part, authority = stage / folder.name, Authority(days)
        _write_authority(part, authority, domain)
        for name, interface in enclaves.items():
            _write_enclave(part, authority, domain, name, interface)


def _write_authority(folder: Path, authority: Authority, domain: int) -> None:
    certificate = authority.certificate.public_bytes(serialization.Encoding.PEM)
    write_whole(folder / "public/ca.cert.pem", certificate)
    _write_key(folder / "private/ca.key.pem", authority.key)
    for name in AUTHORITIES:
        (folder / f"public/{name}.cert.pem").symlink_to("ca.cert.pem")
        (folder / f"private/{name}.key.pem").symlink_to("ca.key.pem")
    _write_signed(folder / "enclaves", "governance", authority, domain=domain)


def _write_enclave(
    folder: Path, authority: Authority, domain: int, name: str, interface: Interface
) -> None:
    enclave, key = folder / "enclaves" / name.lstrip("/"), ec.generate_private_key(ec.SECP256R1())
    own = authority.certify(name, key).public_bytes(serialization.Encoding.PEM)
    facts = {"enclave": name, "domain": domain, "topics": dds_topics(interface)}
    validity = {"begin": authority.begin, "end": authority.end}
    _write_signed(enclave, "permissions", authority, **facts, **validity)
    write_whole(enclave / "cert.pem", own)
    _write_key(enclave / "key.pem", key)
    above = os.path.relpath(folder, enclave)
    (enclave / "governance.p7s").symlink_to(f"{above}/enclaves/governance.p7s")
    for other in AUTHORITIES:
        (enclave / f"{other}.cert.pem").symlink_to(f"{above}/public/{other}.cert.pem")


def _write_signed(folder: Path, name: str, authority: Authority, **facts: Any) -> None:
    """Write a document, with its signature beside it; `facts` are what its template names."""
    document = _DOCUMENTS.get_template(f"{name}.xml.j2").render(facts).encode()
    write_whole(folder / f"{name}.xml", document)
    write_whole(folder / f"{name}.p7s", authority.sign(document))


def dds_topics(interface: Interface) -> dict[str, set[str]]:
    """The DDS topics to `publish` and to `subscribe` for topics and services of ROS."""

    def named(prefix: str, names: set[str], suffix: str = "") -> set[str]:
        return {f"{prefix}{name}{suffix}" for name in names}

    return {
        "publish": named("rt", interface.publishes)
        | named("rq", interface.calls, "Request")
        | named("rr", interface.serves, "Reply")
        | {DISCOVERY},
        "subscribe": named("rt", interface.subscribes)
        | named("rq", interface.serves, "Request")
        | named("rr", interface.calls, "Reply")
        | {DISCOVERY},
    }


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.parent.mkdir(0o700, parents=True, exist_ok=True)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    write_new(path, key.private_bytes(*form, serialization.NoEncryption()), 0o600)
