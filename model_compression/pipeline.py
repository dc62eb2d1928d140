"""A compression run: from a YOLO checkpoint and images to a pruned, 8-bit model folder.

Each step leaves a folder in the run's folder, with `done.json` written last; a run that was killed
goes on with the first step that has none, and within a training where it last saved its state.
Every network on the way also becomes a model folder in `models/`, so that all can be compared.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

from model_compression import dataset
from model_compression.checkpoint import class_names
from model_compression.config import Config, Training, read_config
from model_compression.deploy import Maker, pass_gate
from model_compression.errors import CompressionError, GateRefused
from model_compression.export import export
from model_compression.frames import drawn, letterboxed
from model_compression.model import count_gmac, load_model, make_plain, save_model
from model_compression.package import Variant, write_variant
from model_compression.preflight import check_gate, check_names
from model_compression.prune import prune
from model_compression.quantization.graph import is_known
from model_compression.quantization.table import WEIGHT_BITS
from model_compression.run import Run, facts_of
from model_compression.screen import bar, screen
from model_compression.train import Batches, train
from perception_nodes.system.files import write_whole

STATE = "state.pt"
"""What a killed training goes on from, in the folder of its step."""


Step = tuple[str, Any, Callable[[Run, Progress], dict[str, Any]]]
"""Name, the part of the configuration it depends on, and what does it."""


def plan(config: Config) -> list[Step]:
    """List the steps of a run."""
    shown = config.model_dump(mode="json")
    common = [shown[key] for key in ("width", "height", "seed", "teacher", "classes")]
    labels = [shown[key] for key in ("sources", "labeller", "min_confidence", "classes")]
    labels.append(max(config.size))
    steps: list[Step] = [
        ("dataset", labels, build_dataset),
        ("dense", [common, shown["dense"]], train_dense),
        ("swap", [shown["activation"], shown["swap"]], train_plain),
    ]
    last = "swap"
    if config.prune:
        for number in range(1, config.prune.rounds + 1):
            steps.append((f"prune-{number}", shown["prune"], pruning_round(number, last)))
            last = f"prune-{number}"
    for number, training in enumerate(config.distil, 1):
        name = f"distil-{number}"
        steps.append((name, shown["distil"][number - 1], trains(name, training, last)))
        last = name
    steps.append(("quantize", [shown["quantize"], shown["gate"]], quantizes(last)))
    return steps


def build_dataset(run: Run, progress: Progress) -> dict[str, Any]:
    """Merge the sets and let the labeller fill in what they leave out."""
    return dataset.build(run.config, run.folder / "dataset", bar(progress, "dataset"))


def train_dense(run: Run, progress: Progress) -> dict[str, Any]:
    """Fine-tune the parent: the teacher's architecture, float, on the same data and input."""
    if run.config.dense is None:
        network = run.teacher()
        save_model(network, run.checkpoint("dense"))
        return facts_of(run, network)
    return fit(run, progress, "dense", run.teacher(), run.teacher(), run.config.dense)


def train_plain(run: Run, progress: Progress) -> dict[str, Any]:
    """Make the network one of plain layers, and heal it."""
    teacher = load_model(run.checkpoint("dense"))
    network = make_plain(load_model(run.checkpoint("dense")), run.config.activation)
    return fit(run, progress, "swap", network, teacher, run.config.swap)


def pruning_round(number: int, before: str) -> Callable[[Run, Progress], dict[str, Any]]:
    """Return the step that prunes a share of what is to go, and heals."""

    def step(run: Run, progress: Progress) -> dict[str, Any]:
        pruning, size_px = run.config.prune, run.config.size
        assert pruning is not None
        folder = run.checkpoint(f"prune-{number}").parent
        cut = folder / "cut.pt"
        if not cut.exists():
            folder.mkdir(parents=True, exist_ok=True)
            network = load_model(run.checkpoint(before))
            gmac = count_gmac(network, size_px)
            # The same factor every round, so that the last one still has something to choose from.
            left = pruning.rounds - number
            target = pruning.gmac * (gmac / pruning.gmac) ** (left / (left + 1))
            shown = Batches.whole(run.samples(), pruning.images, size_px, run.config.seed)
            path, advance = folder / "sensitivity.json", bar(progress, f"sensitivity {number}")
            rows = json.loads(path.read_text()) if path.exists() else []
            known = {row["convolution"]: row["change"] for row in rows}

            def keep_going(done: int, total: int) -> None:
                rows = [{"convolution": root, "change": change} for root, change in known.items()]
                write_whole(path, json.dumps(rows, indent=1))
                advance(done, total)

            network, table = prune(network, shown, target, size_px, keep_going, known)
            write_whole(path, json.dumps(table, indent=1))
            save_model(network, cut)
        teacher = load_model(run.checkpoint("dense"))
        return fit(run, progress, f"prune-{number}", load_model(cut), teacher, pruning.healing)

    return step


def trains(name: str, training: Training, before: str) -> Callable[[Run, Progress], dict[str, Any]]:
    """Return the step that trains what an earlier one left, weights rounded in the end."""

    def step(run: Run, progress: Progress) -> dict[str, Any]:
        network, teacher = load_model(run.checkpoint(before)), load_model(run.checkpoint("dense"))
        return fit(run, progress, name, network, teacher, training, weight_bits=WEIGHT_BITS)

    return step


def quantizes(last: str) -> Callable[[Run, Progress], dict[str, Any]]:
    """Return the step that turns the networks into model folders, float and 8-bit.

    The parent and the swapped network, as they are and quantized, are for comparison. The last
    network's 8-bit form is what the run was for, and has to pass the gate.
    """

    def step(run: Run, progress: Progress) -> dict[str, Any]:
        config, models = run.config, run.folder / "models"
        names = {"dense": config.parent, "swap": f"{config.name}-swapped"}
        names[last] = f"{config.name}-fp32"
        images = drawn(run.images, config.quantize.images, config.seed)
        maker = Maker(
            config,
            list(letterboxed(images, config.size)),
            run.labelled(),
            run.folder / "quantize",
            lambda title: bar(progress, title),
        )
        for name_of_step, name in names.items():
            variant = maker.measured(variant_of(run, name_of_step, name))
            write_variant(variant, config, models)
            if name_of_step == last:
                small = maker.fitted(variant, config.name)
                found = {
                    model.name: {one.data: one.facts() for one in model.evaluations}
                    for model in (variant, small)
                }
                run.log("quantize", measured=found)  # a refusal is to leave them, too
                pass_gate(config, maker.made, config.name, config.parent, name)
                write_variant(small, config, models)
            elif (name_of_step != "dense" or config.dense is not None) and is_known(variant.graph):
                write_variant(maker.quantized(variant, f"{name}-int8"), config, models)
        accuracy = f"{maker.scores[config.name]:.3f}" if config.gate.data else "not measured"
        screen.print(f"{models / config.name}: mAP50-95 {accuracy}")
        return {"map50_95": maker.scores}

    return step


def history(run: Run, step: str) -> dict[str, Any]:
    """Facts of the steps up to one."""
    facts = {}
    for name, _, _ in plan(run.config):
        done = run.folder / name / "done.json"
        if name != "dataset" and done.exists():
            facts[name] = {k: v for k, v in json.loads(done.read_text()).items() if k != "key"}
        if name == step:
            break
    return facts


def variant_of(run: Run, step: str, name: str) -> Variant:
    """Describe the float form of the network that a step left."""
    network = load_model(run.checkpoint(step))
    graph = export(network, run.checkpoint(step).with_name("network.onnx"), run.config.size)
    plain = step != "dense"
    return Variant(
        name=name,
        parent=run.config.parent if plain else None,
        activation=run.config.activation if plain else "silu",
        graph=graph,
        origin=run.origin,
        history=history(run, step),
        **facts_of(run, network),
    )


def fit(
    run: Run,
    progress: Progress,
    step: str,
    network: nn.Module,
    teacher: nn.Module,
    training: Training,
    weight_bits: int | None = None,
) -> dict[str, Any]:
    """Train a network as one step and save it."""
    path = run.checkpoint(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    advance = bar(progress, step)

    def report(facts: dict[str, Any]) -> None:
        run.log(step, **facts)
        advance(facts["step"], facts["steps"])

    network = train(
        network,
        teacher,
        run.samples(),
        training,
        size_px=run.config.size,
        seed=run.config.seed,
        state=path.with_name(STATE),
        report=report,
        weight_bits=weight_bits,
    )
    save_model(network, path)
    return facts_of(run, network)


def keys_of(steps: list[Step]) -> list[str]:
    """One text a step: a digest of what it is given, and of what all before it are given."""
    keys, key = list[str](), ""
    for _, depends, _ in steps:
        key = hashlib.sha256((key + json.dumps(depends)).encode()).hexdigest()
        keys.append(key)
    return keys


def check_folder(work: Path, names: list[str], keys: list[str]) -> None:
    """Refuse to go on with another configuration's steps, before hours of those in front of them.

    Raises:
        CompressionError: a step was done or begun with another configuration.
    """
    for name, key in zip(names, keys, strict=False):
        kept = [file for end in ("done", "begun") if (file := work / name / f"{end}.json").exists()]
        if kept and json.loads(kept[0].read_text())["key"] != key:
            raise CompressionError(
                f"{work}: step {name} was {kept[0].stem} with another configuration; give another "
                f"folder, or remove {work / name} and what follows it"
            )


def compress(config_path: Path, work: Path, until: str | None = None) -> None:
    """Run a configuration, or go on with a run.

    Args:
        config_path: the YAML file.
        work: folder of the run.
        until: name of the last step to do.

    Raises:
        CompressionError: the configuration, the data or the folder cannot be used.
        GateRefused: the model costs too much accuracy.
    """
    config = read_config(config_path, class_names)
    run = Run(config, work)
    run.teacher()  # this and the following: hours before they are needed
    dataset.check_sources(config.data, config.sources, screen.print)
    check_gate(run)
    steps = plan(config)
    names = [name for name, _, _ in steps]
    if until is not None and until not in names:
        raise CompressionError(f"step {until!r} is unknown; this run has {', '.join(names)}")
    keys = keys_of(steps)
    check_folder(work, names[: None if until is None else names.index(until) + 1], keys)
    if not (work / names[0] / "done.json").exists():
        check_names(run)
    work.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    for number, ((name, _, do), key) in enumerate(zip(steps, keys, strict=True), 1):
        begun, done = work / name / "begun.json", work / name / "done.json"
        title = f"[{number}/{len(steps)}] {name}"
        if done.exists():
            screen.print(f"{title}: done before")
        else:
            columns = (
                TextColumn(title + "  {task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            started_s, goes_on = time.monotonic(), begun.exists()
            begun.parent.mkdir(exist_ok=True)
            write_whole(begun, json.dumps({"key": key}))
            try:
                # Of slower steps than one an hour the time left is not known.
                with Progress(*columns, console=screen, speed_estimate_period=3600) as progress:
                    facts = do(run, progress)
            except GateRefused:  # which leaves nothing to go on with: what it asks for may change
                begun.unlink()
                raise
            if not goes_on:  # else only the last part of it is known
                facts["took_s"] = round(time.monotonic() - started_s, 1)
            run.log(name, done=True, **facts)
            write_whole(done, json.dumps({"key": key, **facts}, indent=1))
            if "gmac" in facts:
                screen.print(f"{title}: {facts['gmac']:.2f} GMAC a frame")
        (work / name / STATE).unlink(missing_ok=True)  # the network is kept: nothing goes on
        begun.unlink(missing_ok=True)
        if name == until:
            break
