"""`perception model compile`: compile a model for this machine and check what it detects."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.cli import options
from perception_nodes.cli.common import give, progress_bar, say_problem
from perception_nodes.core.counters import LayerEstimate
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.evaluation.gate import Margins
from perception_nodes.evaluation.model_compile import compile_model, frames_to_check
from perception_nodes.networks.model import load_model
from perception_nodes.system.cache import trim

SHOWN_COSTS = 8


def compile_command(
    model: options.ModelName,
    backend: options.Backend = AUTO,
    threads: options.Threads = 0,
    bag: options.Bags = None,
    images: options.Images = None,
    frames: Annotated[int, typer.Option(min=1, max=100_000)] = 24,
    min_agreement: options.Share = Margins.agreement,
    min_parent_agreement: options.Share = Margins.parent_agreement,
    data: options.ComparedData = None,
    root: options.DataRoot = None,
    max_loss: options.Share = Margins.loss,
    max_class_loss: options.Share = Margins.class_loss,
    as_json: options.Json = False,
) -> None:
    """Compile a model for a backend on this machine, and check that it detects what it should.

    A compiled model that passes goes into the cache that the graph starts from. It is refused, with
    exit status 1, if it is too far from its FP32 parent (on --data mAP50-95, and AP50 and recall of
    every class; without labels, the objects found on frames) or from the integer golden model,
    which defines what the model's file means. If a model lost too much, a table shows how much each
    layer costs. For backend fpga, a table shows how much of the engine each layer uses.

    A refusal is advice: the model leaves the cache, but a graph that is started with it all the
    same compiles it again, without this check.

    Options:
        threads: Threads for inference, as many as in the graph; 0: one per physical core.
        frames: Number of frames to check on; the golden model takes a second for each. Without
            --bag and --images, the images of --data are used, or the sample drive.
        min_agreement: Share of objects that the model and the golden model must both see.
        min_parent_agreement: Share of objects that the model and its FP32 parent must both see;
            only without --data.
        max_loss: How far mAP50-95 may be below the parent's, as a mean over the sets of --data.
        max_class_loss: How far AP50 and recall of a class may be below the parent's, likewise.

    Example: perception model compile open-n --backend auto --bag drives/rain

    Example: perception model compile open-n --backend auto --data my/set --max-loss 0.02
    """
    subject = load_model(model)
    sets = read_sets(data or [], root)
    source = frames_to_check(subject, bag or [], images or [], sets)
    margins = Margins(min_agreement, min_parent_agreement, max_loss, max_class_loss)
    runtime = runtime_for(backend, subject)
    trim()
    facts = compile_model(subject, runtime, threads, source, frames, sets, margins, progress_bar)
    give(facts, compiled_report(facts), as_json)
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
        times = f"{facts['load_s']:.2f} s from the cache, in {facts['compile_s']:.2f} s without"
        parts.append(f"Loads in {times}; cached in {escape(', '.join(facts['cache']))}")
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
