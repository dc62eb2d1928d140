"""What a run is refused for before hours of work: sets of the gate, names of classes."""

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from model_compression import dataset
from model_compression.deploy import check_evidence, without_labels
from model_compression.errors import CompressionError
from model_compression.export import export
from model_compression.package import Variant, write_variant
from model_compression.run import Run, facts_of
from model_compression.screen import bar, screen
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.evaluation.classes import MIN_CLASS_OBJECTS
from perception_nodes.evaluation.mistakes import examine
from perception_nodes.networks.model import load_model

LOOKED_AT = 200
"""Images of a set that the given network is shown, at most."""
MAX_SHARED = 0.01
"""Share of a set of the gate that may be copies of what is trained on; they are told."""


def digest(path: Path) -> bytes:
    """What tells that two files hold the same, wherever they are."""
    return hashlib.sha256(path.read_bytes()).digest()


def check_gate(run: Run) -> None:
    """Look at the gate's sets before any long work.

    Raises:
        CompressionError: a set shows images that are trained on, beyond a few copies.
        GateRefused: they tell nothing of a class.
        DataError: a set cannot be used.
    """
    config, sets = run.config, run.labelled()
    sizes = {image.path.stat().st_size for one in sets for image in one.images}
    trained = {
        digest(path)
        for source in config.sources
        for path in dataset.find_images(config.data, source)
        if path.stat().st_size in sizes
    }
    for one in sets:
        if shared := [image.path for image in one.images if digest(image.path) in trained]:
            text = (
                f"gate.data: {len(shared)} of the {len(one.images)} images of {one.name} are "
                f"trained on, {shared[0]} for one; keep images apart for it (val in a data.yaml)"
            )
            if len(shared) > MAX_SHARED * len(one.images):
                raise CompressionError(text)
            screen.print(text, soft_wrap=True)
    check_evidence(config, without_labels(config.classes, sets))


def check_names(run: Run) -> None:
    """Let the given network show that it calls objects what the gate's sets call them.

    Raises:
        CompressionError: it takes most objects of some classes for each other: names are swapped.
    """
    if not run.config.gate.data:
        return
    with tempfile.TemporaryDirectory() as scratch, Progress(console=screen) as progress:
        network = run.teacher().eval()
        variant = Variant(
            name=run.config.parent,
            parent=None,
            activation="silu",
            graph=export(network, Path(scratch) / "given.onnx", run.config.size),
            origin=run.origin,
            **facts_of(run, network),
        )
        given = load_model(str(write_variant(variant, run.config, Path(scratch))))
        for one in run.labelled():
            one = replace(one, images=one.images[:: 1 + len(one.images) // LOOKED_AT])
            advance = bar(progress, f"{run.config.teacher} on {one.name}")
            found = examine(given, one, DecodeSettings(), progress=advance)
            if swapped := swapped_in(found.confusions()):
                raise CompressionError(
                    f"{one.name}: most objects labelled {' and '.join(swapped)} are reported by "
                    f"{run.config.teacher} as each other; put the names into the order of the "
                    "labels' numbers (names in data.yaml)"
                )


def swapped_in(confusions: list[list[Any]]) -> list[str]:
    """Classes that are taken for each other in a circle, each for the next one most of the time.

    Args:
        confusions: those of ``Examined.confusions``.
    """
    rows = {name: counts[:-1] for name, *counts in confusions[:-1]}
    names = list(rows)
    taken_for = {
        name: names[int(np.argmax(counts))]
        for name, counts in rows.items()
        if sum(counts) >= MIN_CLASS_OBJECTS and 2 * max(counts) > sum(counts)
    }
    for name in taken_for:
        circle = [name]
        while (after := taken_for.get(circle[-1])) and after not in circle:
            circle.append(after)
        if after == name and len(circle) > 1:
            return circle
    return []
