"""`perception model COMMAND`: what models there are, how good they are, how they are made."""

import importlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from perception_nodes.backends.base import BACKENDS
from perception_nodes.backends.compiled import CompiledRefused, compiled
from perception_nodes.backends.model import Model, available_models, load_model
from perception_nodes.config import SettingsError
from perception_nodes.environment import cache_folder, share_folder
from perception_nodes.evaluation import (
    DataError,
    Evaluation,
    LabelledSet,
    evaluate,
    read_set,
    taught_set,
)
from perception_nodes.evaluation.gate import Gate, Margins
from perception_nodes.evaluation.matching import require_pycocotools
from perception_nodes.evaluation.read import images_of, parse_classes_map
from perception_nodes.replay.frames import FrameSource

model_app = typer.Typer(
    help="Models: what there is, how good it is, how it is made.", no_args_is_help=True
)
screen = Console(stderr=True)

SAMPLE_DRIVE = Path("bags/sample")
FRAMES_FOR_COSTS = 4
SHOWN_COSTS = 8

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Model: name or folder.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@model_app.command("list")
def list_command(as_json: JsonFlag = False) -> None:
    """List the models that are there, checked against their hashes."""
    models = [load_model(name) for name in available_models()]
    if as_json:
        print(json.dumps([json.loads(model.model_dump_json()) for model in models], indent=2))
        return
    table = Table("model", "input", "precision", "activation", "GMAC", "parent", "mAP50-95")
    for model in models:
        table.add_row(
            model.name,
            f"{model.input.width}x{model.input.height}",
            model.precision,
            model.activation or "",
            "" if model.gmac is None else f"{model.gmac:.2f}",
            model.parent or "",
            "\n".join(f"{name} {value:.3f}" for name, value in model.map50_95.items()),
        )
    Console().print(table)


@model_app.command("evaluate")
def evaluate_command(
    model: ModelName,
    data: Annotated[
        list[Path],
        typer.Option(
            help="A labelled set; may be given again. A folder with images/ and labels/ (YOLO, "
            "class names in classes.txt or a data.yaml) or one below images/; a COCO .json; or a "
            "description .yaml as in compression/datasets/."
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            envvar="PERCEPTION_DATA", help="Folder that the paths in a description start from."
        ),
    ] = None,
    classes_map: Annotated[
        str,
        typer.Option(
            help="Which of the model's classes count as a class of the set, where names differ: "
            "'car=car|bus|truck,rider=ignore', or a YAML file of the same form."
        ),
    ] = "",
    teacher: Annotated[
        str,
        typer.Option(
            help="A stronger model, name or folder, whose detections stand for labels: the "
            "figures are then agreement with it, and --data may be images alone."
        ),
    ] = "",
    teacher_score: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Its detections from this score on count.")
    ] = 0.4,
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")] = "openvino",
    threads: Annotated[
        int, typer.Option(min=0, max=256, help="Inference threads; 0: one a core.")
    ] = 0,
    at_least: Annotated[
        float, typer.Option(min=0, max=1, help="Exit status 1 if mAP50-95 of a set is below.")
    ] = 0.0,
    as_json: JsonFlag = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON into this file too.")] = None,
) -> None:
    """Measure a model's accuracy: COCO mAP50-95, by class and by object height.

    Labels are checked before anything long is done. Heights are in pixels of the network's input;
    the interval is a 95 % bootstrap over images. Precision and recall are those at the run time's
    thresholds. Without labels, --teacher compares with a stronger model.

    For example:

    perception model evaluate road-n --data compression/datasets/camvid-val.yaml --root ~/data

    perception model evaluate road-n --data frames/ --teacher coco-x
    """
    require_pycocotools()
    subject = load_model(model)
    if teacher:
        strong = load_model(teacher)
        sets = _taught(subject, strong, data, root, teacher_score, backend, threads)
    else:
        mapped = parse_classes_map(classes_map) if classes_map else None
        sets = [read_set(path, root, mapped) for path in data]
    results = []
    for one in sets:
        with progress_bar(f"{subject.name} on {one.name}") as progress:
            results.append(evaluate(subject, one, backend, threads, progress))
        if not as_json:
            Console().print(evaluation_table(results[-1]))
    text = json.dumps([result.model_dump() for result in results], indent=2)
    if as_json:
        print(text)
    if out is not None:
        write_text(out, text + "\n")
    short = [result for result in results if result.map50_95 < at_least]
    for result in short:
        screen.print(
            f"[bold red]{result.data}: mAP50-95 {result.map50_95:.4f} is below {at_least:g}[/]"
        )
    if short:
        raise typer.Exit(1)


@model_app.command("calibrate")
def calibrate_command(
    model: ModelName,
    bag: Annotated[
        list[Path] | None, typer.Option(help="Recorded drive to take frames from; repeatable.")
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder of images to take too; repeatable.")
    ] = None,
    frames: Annotated[int, typer.Option(min=8, help="Frames to calibrate on.")] = 256,
    out_model: Annotated[
        Path | None, typer.Option(help="Write the 8-bit model's folder here.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Ranges to write; calibration/int8/NAME.yaml by default.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet of the frames, JPEG.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Labelled set to compare the new model on with the old; repeatable."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            envvar="PERCEPTION_DATA", help="Folder that the paths in a description start from."
        ),
    ] = None,
    max_loss: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Of mAP50-95 on each set; a model that loses more is not written, exit status 1.",
        ),
    ] = 0.01,
    as_json: JsonFlag = False,
) -> None:
    """Choose frames that differ, and measure the ranges of an 8-bit network on them.

    Every nth frame of a drive is mostly the same road. Here each next frame is the one that is
    least like those already chosen; near duplicates are never both taken.

    Example: perception model calibrate road-n-fp32 --bag drives/rain --bag drives/night
    """
    if data and out_model is None:
        raise SettingsError("--data compares the new model with the old: give --out-model too")
    if data:
        require_pycocotools()
    sets = [read_set(path, root) for path in data or []]
    from perception_nodes.replay.diversity import choose_frames, contact_sheet

    errors = _compression_tool("compression.errors")
    calibrate = _compression_tool("compression.quantization", "calibrate")
    subject = load_model(model)
    with progress_bar("looking at frames") as progress:
        chosen = choose_frames(
            bag or [], images or [], frames, (subject.input.width, subject.input.height), progress
        )
    for note in chosen.notes:
        screen.print(note, highlight=False, soft_wrap=True)
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet.write_bytes(contact_sheet(chosen))
    path = table or Path("calibration/int8") / f"{subject.name}.yaml"
    facts = {"model": subject.name, "table": str(path), **chosen.facts()}
    named = list(zip(chosen.names, chosen.frames, strict=True))
    try:
        if out_model is None:
            calibrate(subject.folder, named, path, None)
        else:
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / out_model.name
                calibrate(subject.folder, named, Path(folder) / "ranges.yaml", made)
                facts["map50_95"] = _compared(subject, load_model(str(made)), sets, max_loss)
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(folder) / "ranges.yaml", path)
                shutil.copytree(made, out_model, dirs_exist_ok=True)
            facts["out_model"] = str(out_model)
    except errors.CompressionError as error:
        raise SettingsError(str(error)) from error
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        written = f"{path} and {out_model}" if out_model else str(path)
        screen.print(f"Written to {written}", highlight=False, soft_wrap=True)


@model_app.command("compile")
def compile_command(
    model: ModelName,
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACKENDS)}.")],
    threads: Annotated[
        int,
        typer.Option(min=0, max=256, help="Inference threads, as in the graph; 0: one a core."),
    ] = 0,
    bag: Annotated[
        list[Path] | None,
        typer.Option(
            help="Recorded drive to look at; repeatable. Without any, the images of --data, or "
            f"{SAMPLE_DRIVE}."
        ),
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder of images to look at too; repeatable.")
    ] = None,
    frames: Annotated[
        int,
        typer.Option(min=1, help="Frames to look at; the golden model takes a second for each."),
    ] = 24,
    min_agreement: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of objects that it and the golden model must both see."
        ),
    ] = Margins.agreement,
    min_parent_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="The same with the FP32 parent, without --data.")
    ] = Margins.parent_agreement,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Labelled set to compare mAP50-95 with the parent's on, as for `perception model "
            "evaluate`; repeatable."
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            envvar="PERCEPTION_DATA", help="Folder that the paths in a description start from."
        ),
    ] = None,
    max_loss: Annotated[
        float, typer.Option(min=0, max=1, help="Of mAP50-95 against the parent, mean over --data.")
    ] = Margins.loss,
    as_json: JsonFlag = False,
) -> None:
    """Compile a model for a backend on this machine, and check that it detects what it should.

    What was compiled goes into the cache that the graph starts from. It does not, and the exit
    status is 1, where it is too far from its FP32 parent (mAP50-95 on --data; without labels,
    objects found on frames) or from the integer golden model, which defines what its file means.
    Of a model that lost too much, a table then shows which layers cost what.

    For example:

    perception model compile road-n --backend openvino --bag drives/rain

    perception model compile road-n --backend openvino --data my/set --max-loss 0.02
    """
    if data:
        require_pycocotools()
    subject = load_model(model)
    sets = [read_set(path, root) for path in data or []]
    source = _places(subject, bag or [], images or [], sets)
    chosen = _spread(source, frames)
    margins = Margins(min_agreement, min_parent_agreement, max_loss)
    gate = Gate(subject, backend, threads, chosen, sets, margins, progress_bar)
    cache = cache_folder()
    facts: dict[str, Any] = {"model": subject.name, "backend": backend, "frames": len(chosen)}
    try:
        with compiled(subject, backend, threads, cache) as made:
            facts |= {
                "runtime": made.info.runtime,
                "device": made.info.device,
                "threads": made.info.threads,
                "compile_s": round(made.compile_s, 3),
                "load_s": round(made.load_s, 3),
            }
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
        screen.print(f"[bold red]refused:[/] {facts['refused']}", highlight=False, soft_wrap=True)
        raise typer.Exit(1)


@model_app.command("compress")
def compress_command(
    config: Annotated[
        Path, typer.Argument(help="What to do, YAML; see compression/configs/.", metavar="CONFIG")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for everything in between; a run that was cut goes on.")
    ],
    until: Annotated[str | None, typer.Option(help="Stop after this step.")] = None,
) -> None:
    """Make a smaller, 8-bit model: fine-tune, prune, heal, quantize, and check what it costs.

    Exit status 1 if the model costs more accuracy than the configuration allows.
    """
    errors = _compression_tool("compression.errors")
    compress = _compression_tool("compression.pipeline", "compress")
    try:
        compress(config, out, until)
    except errors.GateRefused as error:
        screen.print(f"[bold red]refused:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except errors.CompressionError as error:
        raise SettingsError(str(error)) from error


def evaluation_table(result: Evaluation) -> Group:
    """An evaluation for people."""
    low, high = result.confidence
    table = Table(
        "", "objects", "mAP50-95", "mAP50", title=f"{result.model} on {result.data}", min_width=50
    )
    for column in table.columns[1:]:
        column.justify = "right"

    def row(name: str, objects: int, map50_95: float | None, map50: float | None) -> None:
        cells = ("–" if value is None else f"{value:.4f}" for value in (map50_95, map50))
        table.add_row(name, str(objects), *cells)

    objects = sum(score.objects for score in result.by_class.values())
    row(f"[bold]all, {result.images} images", objects, result.map50_95, result.map50)
    table.add_row("  95 % interval", "", f"{low:.3f} to {high:.3f}", "")
    for title, scores in (("", result.by_class), (" px high", result.by_height)):
        table.add_section()
        for name, score in scores.items():
            row(f"{name}{title}", score.objects, score.map50_95, score.map50)
    point = result.operating_point
    rates = {"precision": point.precision, "recall": point.recall, "F1": point.f1}
    said = ", ".join(f"{k} {'–' if v is None else f'{v:.3f}'}" for k, v in rates.items())
    return Group(
        table, f"at score {point.score_threshold:g} and IoU 0.5: {said}", *result.notes, ""
    )


def compiled_report(facts: dict[str, Any]) -> Group:
    """What was compiled and how it compares, for people."""
    title = f"{facts['model']} on {facts['backend']}, {facts['device']}"
    table = Table("compared with", "", "is", "limit", title=title)
    for check in facts["checks"]:
        figures = (f"{check[key]:.4g}" for key in ("value", "limit"))
        mark = "[red]" if check["at_fault"] else ""
        table.add_row(f"{mark}{check['reference']}", check["measure"], *figures)
    parts: list[Any] = [table]
    if facts.get("layers_nat"):
        costs = Table("layer", "mnat an object", title="What storing its result in 8 bits costs")
        for name, cost in list(facts["layers_nat"].items())[:SHOWN_COSTS]:
            costs.add_row(name, f"{1e3 * cost:.1f}")
        parts.append(costs)
    parts += facts["notes"]
    if facts["cache"]:
        parts.append(
            f"Loads in {facts['load_s']:.2f} s, before in {facts['compile_s']:.2f} s; it lies in "
            + ", ".join(facts["cache"])
        )
    elif not facts["refused"]:
        parts.append(
            f"{facts['backend']} keeps nothing compiled; it is checked, and starts as ever"
        )
    return Group(*parts)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time that is left, on stderr; it appears with the first step."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=screen,
        transient=True,
    )
    task = progress.add_task(title, total=None)

    def show(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield show
    finally:
        progress.stop()


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _taught(
    student: Model,
    teacher: Model,
    data: list[Path],
    root: Path | None,
    min_score: float,
    backend: str,
    threads: int,
) -> list[LabelledSet]:
    sets = []
    for path in data:
        name, files = images_of(path, root)
        with progress_bar(f"{teacher.name} on {name}") as progress:
            sets.append(
                taught_set(teacher, student, name, files, min_score, backend, threads, progress)
            )
    return sets


def _places(
    model: Model, bags: list[Path], folders: list[Path], sets: list[LabelledSet]
) -> FrameSource:
    """Where frames to look at come from, in the model's size.

    Raises:
        DataError: nowhere is named, and the sample drive is not there.
    """
    if not bags and not folders:
        folders = list(dict.fromkeys(image.path.parent for one in sets for image in one.images))
        bags = [] if folders else [SAMPLE_DRIVE]
        if bags and not SAMPLE_DRIVE.exists():
            raise DataError(
                f"no frames to look at: {SAMPLE_DRIVE} is not there (make sample makes it); name a "
                "drive with --bag or a folder with --images"
            )
    return FrameSource(bags, folders, model.input.width, model.input.height)


def _spread(source: FrameSource, most: int) -> list[NDArray[np.uint8]]:
    """Frames at equal steps, uint8 [height, width, 3] BGR each.

    Raises:
        BagError, DataError: a place has none, or none can be read.
    """
    total, chosen = source.count(), []
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
    """What each layer's 8 bits cost, nats an object; nothing, and a note, where that is unknown."""
    some = frames[:: -(-len(frames) // FRAMES_FOR_COSTS)]
    try:
        errors = _compression_tool("compression.errors")
        measure = _compression_tool("compression.quantization.stored", "stored_costs")
        with progress_bar("cost of each layer") as progress:
            costs: dict[str, float] = measure(model.path, some, threads, progress)
    except SettingsError as error:
        notes.append(f"which layers cost what is not known: {error}")
        return {}
    except errors.CompressionError as error:
        notes.append(f"which layers cost what is not known: {model.path}: {error}")
        return {}
    return costs


def _compared(
    old: Model, new: Model, sets: list[LabelledSet], max_loss: float
) -> dict[str, dict[str, float]]:
    """Measure both models; exit status 1 where the new one loses too much."""
    found: dict[str, dict[str, float]] = {}
    for one in sets:
        scores = found[one.name] = {}
        for title, model in (("old", old), ("new", new)):
            with progress_bar(f"{title} {model.name} on {one.name}") as progress:
                scores[title] = evaluate(model, one, progress=progress).map50_95
        said = f"{one.name}: mAP50-95 {scores['old']:.4f} before, {scores['new']:.4f} now"
        if scores["old"] - scores["new"] > max_loss:
            screen.print(f"[bold red]refused:[/] {said}; {max_loss:g} may be lost")
            raise typer.Exit(1)
        screen.print(said, highlight=False)
    if not sets:
        screen.print("accuracy of the new model was not measured: give --data for that")
    return found


def _compression_tool(module: str, name: str = "") -> Any:
    """A build-time tool; they lie beside the package in a checkout and are not installed.

    Raises:
        SettingsError: it, or what it needs, is not there.
    """
    checkout = str(share_folder())
    if checkout not in sys.path:
        sys.path.append(checkout)
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{module} cannot be imported ({error}); in a checkout of the repository, "
            "make compression installs what it needs"
        ) from error
    return getattr(found, name) if name else found
