"""Signs models and verifies signatures: a hash says what a model is, a signature whose it is.

Ed25519 (RFC 8032) over the bytes of `model.yaml`, which holds the hash of every other file. Keys
are PEM files as OpenSSL's; the signature is a line of base64 in `model.yaml.sig`.
"""

import base64
import binascii
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from perception_nodes.core.errors import PerceptionError
from perception_nodes.system.files import staged, write_new


class SignatureError(PerceptionError):
    """A model is not signed as it must be, or a key cannot be used; the text says what to do."""


def signature_of(description: Path) -> Path:
    """The file with the signature of a `model.yaml`, whether it exists or not."""
    return description.with_name(f"{description.name}.sig")


def make_keys(private: Path, public: Path) -> None:
    """Make a pair of keys in one folder; the private one is readable by its owner alone.

    Raises:
        SignatureError: a file is there already, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    shown = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    for path in (private, public):
        if os.path.lexists(path):
            raise SignatureError(f"{path} cannot be made: {os.strerror(errno.EEXIST)}")
    try:
        # They move only when both are written, since one without the other is of no use.
        with staged(private.parent) as folder:
            write_new(folder / private.name, secret, 0o600)
            write_new(folder / public.name, shown, 0o644)
    except OSError as error:
        raise SignatureError(f"{private} and {public} cannot be made: {error.strerror}") from error


def sign(description: Path, private: Path) -> bytes:
    """The content of the file `signature_of(description)`.

    Raises:
        SignatureError: the key cannot be used.
        OSError: `model.yaml` cannot be read.
    """
    key = _loaded(private, lambda pem: serialization.load_pem_private_key(pem, password=None))
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{private} is no private Ed25519 key (perception model keys)")
    return base64.b64encode(key.sign(description.read_bytes())) + b"\n"


def verify(description: Path, content: bytes, public: Path) -> None:
    """Check that a key's owner has signed a model.

    Args:
        description: path of the `model.yaml`.
        content: what was read from it, and is used.
        public: the key.

    Raises:
        SignatureError: it is not signed, signed by another key, or was changed; or the key is
            unusable.
    """
    key = _loaded(public, serialization.load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{public} is no public Ed25519 key (perception model keys)")
    path = signature_of(description)
    try:
        key.verify(base64.b64decode(path.read_bytes(), validate=False), content)
    except FileNotFoundError as error:
        asks = f"{description.parent} is not signed, and model_key:={public} asks for it"
        remedy = "sign it with perception model sign, or take a signed one"
        raise SignatureError(f"{asks}; {remedy}") from error
    except (OSError, InvalidSignature, binascii.Error) as error:
        raise SignatureError(
            f"{path} is no signature of {description.name} by the owner of {public}: it was signed "
            "with another key, or changed since; restore the folder or sign it again"
        ) from error


def _loaded(path: Path, load: Callable[[bytes], Any]) -> Any:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise SignatureError(f"the key {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"{path} is no key in PEM form (perception model keys)") from error
