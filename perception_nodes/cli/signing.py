"""`perception model keys`, `sign` and `verify`: prove who made a model."""

from pathlib import Path
from typing import Annotated

import typer

from perception_nodes.cli import options
from perception_nodes.cli.common import check_writable, say
from perception_nodes.networks.model import Model, load_model
from perception_nodes.networks.signature import make_keys, sign, signature_of
from perception_nodes.system.files import write_whole


def keys_command(private: Annotated[Path, typer.Argument(metavar="FILE")]) -> None:
    """Make a pair of keys (Ed25519): the private one signs models, the public one goes to vehicles.

    Options:
        private: The private key; FILE.pub is the public one.

    Example: perception model keys ~/fleet.key
    """
    public = private.with_name(f"{private.name}.pub")
    make_keys(private, public)
    say(f"Written to {private}, which nobody else may have, and {public}")


def sign_command(model: options.ModelName, key: Path) -> None:
    """Sign a model, after a check of its files: model.yaml.sig says that it is the key owner's.

    A graph with model_key:=FILE.pub loads no other models.

    Options:
        key: The private key, of `perception model keys`.

    Example: perception model sign models/road-n --key ~/fleet.key
    """
    description = _checked(model).folder / "model.yaml"
    path = signature_of(description)
    check_writable(path, "the signature")
    write_whole(path, sign(description, key))
    say(f"Written to {path}")


def verify_command(model: options.ModelName, key: Path) -> None:
    """Check a model's signature and the hashes of its files; exit status 2 if one is wrong.

    Options:
        key: The public key.

    Example: perception model verify road-n --key /etc/perception/fleet.key.pub
    """
    say(f"{_checked(model, str(key)).name} is signed by the owner of {key}")


def _checked(name: str, key: str = "") -> Model:
    """Load a model and check all of its files; a node would check only those that it uses."""
    model = load_model(name, key)
    if model.s8 is not None:
        model.signed_file()
    return model
