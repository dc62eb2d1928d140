"""A model compiled for a backend on this machine, and checked before it enters the cache."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.backends.compiled import Bar, CompiledRefused, compiled
from perception_nodes.core.errors import PerceptionError
from perception_nodes.drives.sample import sample_drive
from perception_nodes.evaluation.compression_tools import compression_tool
from perception_nodes.evaluation.frames import FrameSource
from perception_nodes.evaluation.gate import Gate, Margins
from perception_nodes.evaluation.labels import DataError, LabelledSet
from perception_nodes.networks.model import Model
from perception_nodes.system.environment import cache_folder

FRAMES_FOR_COSTS = 4


def compile_model(
    model: Model,
    backend: str,
    threads: int,
    source: FrameSource,
    frames: int,
    sets: Sequence[LabelledSet],
    margins: Margins,
    bar: Bar,
) -> dict[str, Any]:
    """Compile a model into the cache, unless it detects something else than its references.

    Args:
        model: the model.
        backend: name of the runtime.
        threads: number of threads for inference; 0 for one per physical core.
        source: gives the frames to check on.
        frames: number of frames to check on.
        sets: labelled sets to check on.
        margins: how far it may be from its references.
        bar: shows the progress of a step.

    Returns:
        The facts for JSON: among them `checks`, `notes`, the files in the `cache`, and in `refused`
        why it was refused, or None.

    Raises:
        BackendError: the runtime or a reference failed.
        BagError, DataError: there are no frames, or none of them can be read.
    """
    chosen = spread_frames(source, frames, bar)
    gate, cache = Gate(model, backend, threads, chosen, sets, margins, bar), cache_folder()
    facts: dict[str, Any] = {"model": model.name, "backend": backend, "frames": len(chosen)}
    try:
        with compiled(model, backend, threads, cache, bar) as made:
            facts |= {
                "runtime": made.info.runtime,
                "device": made.info.device,
                "threads": made.info.threads,
                "compile_s": round(made.compile_s, 3),
                "load_s": round(made.load_s, 3),
            }
            if made.info.layers:
                facts["layers"] = [layer._asdict() for layer in made.info.layers]
            gate.judge(made)
        facts |= {"refused": None, "cache": [str(cache / name) for name in made.files]}
    except CompiledRefused as error:
        facts |= {"refused": str(error), "cache": []}
    facts["checks"] = [check.__dict__ for check in gate.checks]
    facts["notes"] = [*source.notes, *gate.notes]
    if gate.failed and gate.failed.at_fault == "model" and model.precision == "int8":
        facts["layers_nat"] = layer_costs(model, chosen, threads, bar, facts["notes"].append)
    return facts


def frames_to_check(
    model: Model, bags: Sequence[Path], folders: Sequence[Path], sets: Sequence[LabelledSet]
) -> FrameSource:
    """Frames of drives and folders; if there are none those of sets, or else the sample drive's.

    Raises:
        PerceptionError: no source is named, and the sample drive cannot be fetched.
    """
    by_path = {image.path: image for one in sets for image in one.images}
    images = [] if bags or folders else list(by_path.values())
    if not (bags or folders or images):
        bags = [sample_drive()]
    return FrameSource(bags, folders, model.input, images)


def spread_frames(source: FrameSource, most: int, bar: Bar) -> list[NDArray[np.uint8]]:
    """At most `most` frames at equal steps, uint8 [height, width, 3] BGR each.

    Raises:
        BagError, DataError: a source has no frames, or none of them can be read.
    """
    total = source.count()
    chosen: list[NDArray[np.uint8]] = []
    with bar("reading frames") as progress:
        for index, (_, pixels) in enumerate(source.frames()):
            if index * most >= len(chosen) * total:
                chosen.append(pixels.copy())
            progress(index + 1, total)
    if not chosen:
        raise DataError(f"none of {total} frames can be read: {'; '.join(source.notes)}")
    return chosen


def layer_costs(
    model: Model,
    frames: Sequence[NDArray[np.uint8]],
    threads: int,
    bar: Bar,
    note: Callable[[str], None],
) -> dict[str, float]:
    """The cost of each layer's 8 bits in nats an object; empty, with a note, if it is unknown."""
    some = frames[:: -(-len(frames) // FRAMES_FOR_COSTS)]
    try:
        measure = compression_tool("model_compression.quantization.stored", "stored_costs")
        with bar("cost of each layer") as progress:
            costs: dict[str, float] = measure(model.path, some, threads, progress)
    except PerceptionError as error:
        note(f"the cost of each layer of {model.path} is not known: {error}")
        return {}
    return costs
