"""Where the networks of a run come from: the terms of all that they are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_compression.config import Config
from perception_nodes.networks.terms import UNSTATED, Terms, says_more, terms_of

IN_PART = "; made in part of material under non-commercial or other terms: non-commercial use"
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
    data: tuple[Material, ...]


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


def _joined(weights: Sequence[str], data: Sequence[str]) -> str:
    """The terms of all weights, and whether there is material under others.

    It begins with "unknown" where nobody has said those of some weights.
    """
    licenses: list[str] = []
    for one in weights:
        if says_more(one, " and ".join(licenses)):
            licenses.append(one)
    known = [one for one in licenses if terms_of(one) < Terms.UNSTATED]
    said = " and ".join(known) or licenses[0]
    if known and known != licenses:
        said = f"unknown in part; else {said}"
    whole = " and ".join(licenses)
    others = (one for one in data if terms_of(one) > Terms.JUDGED)
    return said + IN_PART * any(says_more(one, whole) for one in others)
