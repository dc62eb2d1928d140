"""`perception model compile`: compile a model for this machine and check what it detects."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from perception_nodes.backends.auto import runtime_for
from perception_nodes.backends.compiled import CompiledRefused, compiled
from perception_nodes.cli.common import (
    BackendOption,
    DataRoot,
    JsonFlag,
    ModelName,
    compression_tool,
    progress_bar,
    say_problem,
)
from perception_nodes.core.counters import LayerEstimate
from perception_nodes.core.errors import PerceptionError
from perception_nodes.drives.sample import SAMPLE
from perception_nodes.evaluation import DataError, LabelledSet
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.evaluation.frames import FrameSource
from perception_nodes.evaluation.gate import Gate, Margins
from perception_nodes.evaluation.matching import require_pycocotools
from perception_nodes.networks.model import Model, load_model
from perception_nodes.system.environment import cache_folder

FRAMES_FOR_COSTS = 4
SHOWN_COSTS = 8


def compile_command(
    model: ModelName,
    backend: BackendOption,
    threads: Annotated[
        int,
        typer.Option(
            min=0,
            max=256,
            help="Threads for inference, as many as in the graph; 0: one per physical core.",
        ),
    ] = 0,
    bag: Annotated[
        list[Path] | None,
        typer.Option(
            help="Recorded drive to check on; may be repeated. Without --bag and --images, the "
            f"images of --data are used, or {SAMPLE}."
        ),
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder of images to check on; may be repeated.")
    ] = None,
    frames: Annotated[
        int,
        typer.Option(
            min=1,
            max=100_000,
            help="Number of frames to check on; the golden model takes a second for each.",
        ),
    ] = 24,
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of objects that the model and the golden model must both see."
        ),
    ] = Margins.agreement,
    min_parent_agreement: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of objects that the model and its FP32 parent must both see; only "
            "without --data.",
        ),
    ] = Margins.parent_agreement,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Labelled set to compare the mAP50-95 of the model and its parent on, as for "
            "`perception model evaluate`; may be repeated."
        ),
    ] = None,
    root: DataRoot = None,
    max_loss: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="How far mAP50-95 may be below the parent's, as a mean over the sets of --data.",
        ),
    ] = Margins.loss,
    max_class_loss: Annotated[
        float,
        typer.Option(min=0, max=1, help="Of AP50 and of recall of any one class, likewise."),
    ] = Margins.class_loss,
    as_json: JsonFlag = False,
) -> None:
    """Compile a model for a backend on this machine, and check that it detects what it should.

    A compiled model that passes goes into the cache that the graph starts from. It is refused, with
    exit status 1, if it is too far from its FP32 parent (on --data mAP50-95, and AP50 and recall of
    every class; without labels, the objects found on frames) or from the integer golden model,
    which defines what the model's file means. If a model lost too much, a table shows how much each
    layer costs. For backend fpga, a table shows how much of the engine each layer uses.

    A refusal is advice: the model leaves the cache, but a graph that is started with it all the
    same compiles it again, without this check.

    Example: perception model compile road-n --backend auto --bag drives/rain

    Example: perception model compile road-n --backend auto --data my/set --max-loss 0.02
    """
    if data:
        require_pycocotools()
    subject = load_model(model)
    sets = read_sets(data or [], root)
    source = _places(subject, bag or [], images or [], sets)
    chosen = _spread(source, frames)
    margins = Margins(min_agreement, min_parent_agreement, max_loss, max_class_loss)
    backend = runtime_for(backend, subject)
    gate = Gate(subject, backend, threads, chosen, sets, margins, progress_bar)
    cache = cache_folder()
    facts: dict[str, Any] = {"model": subject.name, "backend": backend, "frames": len(chosen)}
    try:
        with compiled(subject, backend, threads, cache, progress_bar) as made:
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
    facts["checks"] = [asdict(check) for check in gate.checks]
    facts["notes"] = [*source.notes, *gate.notes]
    if gate.verdict and gate.verdict.at_fault == "model" and subject.precision == "int8":
        facts["layers_nat"] = _layer_costs(subject, chosen, threads, facts["notes"])
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        Console().print(compiled_report(facts))
    if facts["refused"]:
        say_problem("refused", facts["refused"])
        raise typer.Exit(1)


def compiled_report(facts: dict[str, Any]) -> Group:
    """What was compiled and how it compares, as tables."""
    title = escape(f"{facts['model']} on {facts['backend']}, {facts['device']}")
    table = Table("compared with", "", "is", "limit", title=title)
    for check in facts["checks"]:
        figures = (f"{check[key]:.4g}" for key in ("value", "limit"))
        mark = "[red]" if check["at_fault"] else ""
        table.add_row(mark + escape(check["reference"]), escape(check["measure"]), *figures)
    parts: list[Any] = [table]
    if "layers" in facts:
        parts.insert(0, engine_table([LayerEstimate(**layer) for layer in facts["layers"]]))
    if facts.get("layers_nat"):
        costs = Table("layer", "mnat an object", title="Cost of storing a layer's result in 8 bits")
        for name, cost in list(facts["layers_nat"].items())[:SHOWN_COSTS]:
            costs.add_row(escape(name), f"{1e3 * cost:.1f}")
        parts.append(costs)
    parts += map(escape, facts["notes"])
    if facts["cache"]:
        parts.append(
            f"Loads in {facts['load_s']:.2f} s from the cache, in {facts['compile_s']:.2f} s "
            f"without; cached in {escape(', '.join(facts['cache']))}"
        )
    elif not facts["refused"]:
        parts.append(f"Checked; {facts['backend']} has no compiled form to keep in a cache")
    return Group(*parts)


def engine_table(layers: Sequence[LayerEstimate]) -> Table:
    """How much of an engine each layer uses, and the sum; `--json` has more figures."""
    cycles = sum(layer.cycles for layer in layers)
    macs = sum(layer.macs for layer in layers)
    peak = max((x.macs / x.utilisation / x.cycles for x in layers if x.utilisation), default=1.0)
    kilobytes = sum(layer.bytes_read + layer.bytes_written for layer in layers) / 1e3
    table = Table(
        title="How much of the engine each layer uses",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_footer=True,
    )
    names = [layer.name.removeprefix("/").removesuffix("/Conv") for layer in layers]
    names = [name.removesuffix("/conv") for name in names]
    table.add_column("layer", f"{len(layers)} in all", overflow="fold")
    for title, width in {"mode": 6, "channels": 10, "result": 7, "kernel": 6}.items():
        table.add_column(title, min_width=width, no_wrap=True)
    used = f"{macs / (cycles * peak):.0%}"
    for title, total in {"cycles": f"{cycles}", "used": used, "kB": f"{kilobytes:.0f}"}.items():
        table.add_column(title, total, justify="right", min_width=max(len(total), 4), no_wrap=True)
    for name, layer in zip(names, layers, strict=True):
        traffic = (layer.bytes_read + layer.bytes_written) / 1e3
        figures = (f"{layer.cycles}", f"{layer.utilisation:.0%}", f"{traffic:.0f}")
        table.add_row(escape(name), layer.mode, layer.channels, layer.size, layer.kernel, *figures)
    return table


def _places(
    model: Model, bags: list[Path], folders: list[Path], sets: list[LabelledSet]
) -> FrameSource:
    """The source of the frames to check on, in the size of the model's input.

    Raises:
        DataError: no source is named, and the sample drive is missing.
    """
    by_path = {image.path: image for one in sets for image in one.images}
    images = [] if bags or folders else list(by_path.values())
    if not (bags or folders or images):
        bags = [SAMPLE]
        if not SAMPLE.exists():
            raise DataError(
                f"no frames to check on: {SAMPLE} is not there (make sample makes it); name "
                "a drive with --bag or a folder with --images"
            )
    return FrameSource(bags, folders, model.input, images)


def _spread(source: FrameSource, most: int) -> list[NDArray[np.uint8]]:
    """At most `most` frames at equal steps, uint8 [height, width, 3] BGR each.

    Raises:
        BagError, DataError: a source has no frames, or none of them can be read.
    """
    total = source.count()
    chosen: list[NDArray[np.uint8]] = []
    with progress_bar("reading frames") as progress:
        for index, (_, pixels) in enumerate(source.frames()):
            if index * most >= len(chosen) * total:
                chosen.append(pixels.copy())
            progress(index + 1, total)
    if not chosen:
        raise DataError(f"none of {total} frames can be read: {'; '.join(source.notes)}")
    return chosen


def _layer_costs(
    model: Model, frames: Sequence[NDArray[np.uint8]], threads: int, notes: list[str]
) -> dict[str, float]:
    """Nats an object that the 8 bits of each layer cost; nothing and a note if that is unknown."""
    some = frames[:: -(-len(frames) // FRAMES_FOR_COSTS)]
    try:
        measure = compression_tool("model_compression.quantization.stored", "stored_costs")
        with progress_bar("cost of each layer") as progress:
            costs: dict[str, float] = measure(model.path, some, threads, progress)
    except PerceptionError as error:
        notes.append(f"the cost of each layer of {model.path} is not known: {error}")
        return {}
    return costs
