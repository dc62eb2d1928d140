"""Models that must be signed: by the right key, since the last change, or not loaded."""

import base64
import os
import shutil
import stat
import subprocess

import pytest
from refused import refused
from test_model import make_model
from typer.testing import CliRunner

from perception_nodes.cli.app import app
from perception_nodes.networks import signature as signatures
from perception_nodes.networks.model import ModelError, load_model


@pytest.fixture
def keys(tmp_path):
    """A private and a public key."""
    paths = tmp_path / "fleet.key", tmp_path / "fleet.key.pub"
    signatures.make_keys(*paths)
    return paths


@pytest.fixture
def folder(tmp_path, keys):
    """A signed model."""
    made = make_model(tmp_path / "toy")
    description = made / "model.yaml"
    signatures.signature_of(description).write_bytes(signatures.sign(description, keys[0]))
    return made


def refusal(folder, key):
    return refused(signatures.SignatureError, load_model, str(folder), str(key))


def test_an_unsigned_model_is_refused_only_where_a_key_is_given(folder, keys):
    assert load_model(str(folder), str(keys[1])).name == "toy"
    signatures.signature_of(folder / "model.yaml").unlink()
    assert load_model(str(folder)).name == "toy"
    assert "is not signed" in refusal(folder, keys[1])


def test_another_key_is_refused(folder, tmp_path):
    signatures.make_keys(tmp_path / "other", tmp_path / "other.pub")
    assert "with another key" in refusal(folder, tmp_path / "other.pub")


def test_every_changed_byte_is_refused(folder, keys):
    description = folder / "model.yaml"
    content = description.read_bytes()
    signatures.verify(description, content, keys[1])
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1
        with pytest.raises(signatures.SignatureError):
            signatures.verify(description, bytes(changed), keys[1])


def test_a_changed_network_is_refused_by_its_hash(folder, keys):
    (folder / "toy.onnx").write_bytes(b"another network")
    with pytest.raises(ModelError, match="is not the one that was measured"):
        load_model(str(folder), str(keys[1]))


@pytest.mark.parametrize("content", [b"", b"?", b"A" * 87], ids=repr)
def test_what_is_no_signature_is_refused(folder, keys, content):
    signatures.signature_of(folder / "model.yaml").write_bytes(content)
    assert "is no signature of model.yaml" in refusal(folder, keys[1])


def test_unusable_keys_are_named(folder, keys, tmp_path):
    assert "cannot be read: No such file" in refusal(folder, tmp_path / "none")
    (tmp_path / "text").write_text("no key")
    assert "text is no key in PEM form" in refusal(folder, tmp_path / "text")
    assert "is no key in PEM form" in refusal(folder, keys[0])
    with pytest.raises(signatures.SignatureError, match="is no key in PEM form"):
        signatures.sign(folder / "model.yaml", keys[1])


def test_the_private_key_is_its_owners_alone_and_is_not_overwritten(keys):
    assert stat.S_IMODE(os.stat(keys[0]).st_mode) == 0o600
    with pytest.raises(signatures.SignatureError, match="cannot be made: File exists"):
        signatures.make_keys(*keys)


def test_a_key_is_not_made_without_the_other(tmp_path):
    pair = tmp_path / "fleet.key", tmp_path / "fleet.key.pub"
    pair[1].touch()
    with pytest.raises(
        signatures.SignatureError, match=r"fleet\.key\.pub cannot be made: File exists"
    ):
        signatures.make_keys(*pair)
    assert list(tmp_path.iterdir()) == [pair[1]]
    long = tmp_path / ("x" * 256)
    with pytest.raises(signatures.SignatureError, match="cannot be made: File name too long"):
        signatures.make_keys(tmp_path / "fleet.key", long)
    assert list(tmp_path.iterdir()) == [pair[1]]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_agrees(folder, keys, tmp_path):
    description, signature = folder / "model.yaml", tmp_path / "signature"
    signature.write_bytes(base64.b64decode(signatures.signature_of(description).read_bytes()))
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", keys[1]]
    for file, status in ((description, 0), (folder / "toy.onnx", 1)):
        command = [*command, "-in", file, "-sigfile", signature]
        end = subprocess.run(command, capture_output=True, check=False)
        assert end.returncode == status


def test_the_commands_check_the_file_for_tensorrt_too(tmp_path, keys):
    folder = tmp_path / "open-xs"
    shutil.copytree(load_model("open-xs").folder, folder)
    commands = {
        "sign": ["model", "sign", str(folder), "--key", str(keys[0])],
        "verify": ["model", "verify", str(folder), "--key", str(keys[1])],
    }
    for command in commands.values():
        assert CliRunner().invoke(app, command).exit_code == 0
    (folder / "open-xs.s8.onnx").write_bytes(b"another network")
    for command in commands.values():
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, ModelError), result.output
        assert "is not the one that was measured" in " ".join(str(result.exception).split())
