"""Where the networks of a run come from: the terms of all that they are made of.

It is written into the run's folder and beside checkpoints, so that a run that starts from these has
the terms of both.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model_compression.config import Config
from perception_nodes.networks.terms import UNSTATED, Terms, says_more, terms_of
from perception_nodes.system.files import write_whole

FILE = "origin.json"
IN_PART = "; made in part of material under non-commercial or other terms: non-commercial use"
ELSE = "; else "
Material = tuple[str, str]
"""Name and licence."""


@dataclass(frozen=True)
class Origin:
    """What networks were made from.

    Attributes:
        license: of their weights.
        data: weights, labellers and images, each with its licence.
    """

    license: str
    data: tuple[Material, ...] = ()

    def write(self, folder: Path) -> None:
        """Write it into a run's folder."""
        write_whole(folder / FILE, json.dumps(asdict(self), indent=1))


def origin_of(config: Config, license_in: Callable[[Path], str]) -> Origin:
    """Say what a run's networks are made from.

    Args:
        config: of the run.
        license_in: what a checkpoint says itself of its licence, empty for nothing.
    """
    images = tuple((source.name, source.license) for source in config.sources)
    origins = [_of_teacher(config, license_in), Origin("", images)]
    if config.labeller and config.labeller != config.teacher:
        said = license_in(config.data / config.labeller) or UNSTATED[0]
        origins.append(Origin(said, ((f"labels by {Path(config.labeller).name}", said),)))
    if config.checkpoint:
        origins.append(_of_folder(config.checkpoint, config.checkpoint.name))
    data = tuple(dict.fromkeys(one for origin in origins for one in origin.data))
    weights = [origin.license for origin in origins if origin.license]
    return Origin(_joined(weights, [license for _, license in data]), data)


def _of_teacher(config: Config, license_in: Callable[[Path], str]) -> Origin:
    """What the configuration says of the teacher, and its file where it says more."""
    license, said = config.license, license_in(config.data / config.teacher)
    if says_more(said, license):
        license += f" and {said}"
    name = f"{config.teacher_data} (through the weights of {Path(config.teacher).name})"
    return Origin(license, ((name, license),))


def _of_folder(folder: Path, name: str) -> Origin:
    """What a run's folder or one of checkpoints says; older ones say nothing."""
    path = folder / FILE
    if not path.is_file():
        return Origin(UNSTATED[0], ((f"weights of {name}", UNSTATED[0]),))
    values = json.loads(path.read_text(encoding="utf-8"))
    data = tuple((name, license) for name, license in values["data"])
    return Origin(values["license"], ((f"weights of {name}", values["license"]), *data))


def _joined(weights: Sequence[str], data: Sequence[str]) -> str:
    """The terms of all weights, and whether there is material under others.

    It begins with "unknown" where nobody has said those of some weights.
    """
    licenses: list[str] = []
    for one in (part for given in weights for part in given.removesuffix(IN_PART).split(ELSE)):
        if says_more(one, " and ".join(licenses)):
            licenses.append(one)
    known = [one for one in licenses if terms_of(one) < Terms.UNSTATED]
    said = " and ".join(known) or licenses[0]
    if known and known != licenses:
        said = f"unknown in part{ELSE}{said}"
    whole = " and ".join(licenses)
    others = (one for one in data if terms_of(one) > Terms.JUDGED)
    return said + IN_PART * any(says_more(one, whole) for one in others)
