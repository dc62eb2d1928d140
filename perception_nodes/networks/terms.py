"""Terms of use: what may be made of weights, by the names of the licences that they are under.

Words that forbid something are endless, but names of licences that allow it are few. So these names
are listed, and anything else in a licence counts as forbidding.
"""

import re
from enum import IntEnum
from typing import Any

PERMISSIVE = frozenset(
    "apache 2.0,apache license 2.0,mit,bsd,bsd 2 clause,bsd 3 clause,cc0,cc0 1.0,dbcl 1.0,"
    "public domain,our own".split(",")  # the last one for whoever trains
)
"""Licences that ask for notices at most, in the form of `_plain`."""
JUDGED = (
    "annotations cc by 4.0, images of flickr under their own terms",  # COCO
    "weights of permissive licences, images of imagenet for non commercial research",
    "weights of a permissive licence, images that intel does not name",
)
"""Terms of weights that permissive detectors started from, in the form of `_plain`. That weights
are no copy of the images is a judgement, which docs/models.md explains."""
NOTES = re.compile(r"\((started from Ultralytics weights|https?://[^()\s]*)\)")
"""Remarks in a licence that are known to restrict nothing."""
UNSTATED = ("unknown", "not stated")
"""First words of a licence that nobody has stated."""


class Terms(IntEnum):
    """What a licence asks for, the strictest last."""

    PERMISSIVE = 0
    ATTRIBUTION = 1
    JUDGED = 2
    SHARE_ALIKE = 3
    COPYLEFT = 4
    OTHER = 5
    UNSTATED = 6


PATTERNS = {
    Terms.ATTRIBUTION: r"cc by [\d.]+",
    Terms.SHARE_ALIKE: r"cc by sa [\d.]+|odbl( v?[\d.]+)?",
    Terms.COPYLEFT: r"(gnu )?[al]?gpl[ v]*[\d.]*( only| or later|\+)?",
}
"""Names of licences that ask for more, in the form of `_plain`."""
MEANING = {
    Terms.PERMISSIVE: "may be used in products, with the notices that its licence asks for",
    Terms.ATTRIBUTION: "may be used in products that name its authors and its licence",
    Terms.JUDGED: "was made in part from images under terms of their own; whether these bind "
    "weights is for each company to judge",
    Terms.SHARE_ALIKE: "may be used in products, but what is adapted from it may be passed on only "
    "under the same licence; whether weights are adapted from images is for each company to judge",
    Terms.COPYLEFT: "may be passed on, or used behind a network, only with its source under the "
    "same licence",
    Terms.OTHER: "is not for products: some of its terms are non-commercial, or not on the list of "
    "permissive ones",
    Terms.UNSTATED: "is not for products: nobody has said under which terms it, or what it was "
    "made from, may be used",
}
"""Consequences for a model, as the rest of a sentence that begins with its name."""


def terms_of(license: str) -> Terms:
    """The strictest terms of a licence, which may name several."""
    if _plain(license) in JUDGED:
        return Terms.JUDGED
    return max(map(_terms_of_one, _names(license)), default=Terms.UNSTATED)


def says_more(license: str, other: str) -> bool:
    """Whether a licence names terms that another one does not."""
    return not _bare(license) <= _bare(other)


def materials(license: str, data: Any) -> list[tuple[str, str]]:
    """What a model consists of and was made from, each with its licence.

    Args:
        license: licence of its weights.
        data: content of the key `data` in its `model.yaml`.
    """
    rest = [one for one in data or [] if isinstance(one, dict)]
    return [
        ("these weights", license),
        *((str(one.get("name")), str(one.get("license") or UNSTATED[-1])) for one in rest),
    ]


def _terms_of_one(name: str) -> Terms:
    name = re.sub(r"^the | licen[cs]e$", "", name)
    if name.startswith(UNSTATED):
        return Terms.UNSTATED
    if name in PERMISSIVE:
        return Terms.PERMISSIVE
    known = (terms for terms, pattern in PATTERNS.items() if re.fullmatch(pattern, name))
    return next(known, Terms.OTHER)


_BETWEEN = re.compile(
    r"[;,/]|\b(?:and|else|or(?! later)|the (?:file|importer) says)\b|\bprobably\b"
)


def _names(license: str) -> list[str]:
    parts = _BETWEEN.split(_plain(license))
    return [part.strip() for part in parts if part.strip()]


def _bare(license: str) -> set[str]:
    words = re.sub(r"\blicen[cs]e\b", "", license, flags=re.IGNORECASE)
    return {*(_names(words) or [_plain(license)])} - {""}


def _plain(license: str) -> str:
    words = re.sub(r",? version\b", "", NOTES.sub("", license), flags=re.IGNORECASE)
    return re.sub(r"[-_\s]+", " ", words).strip().casefold()
