"""`perception model COMMAND`: what models there are, how good they are, how they are made."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Column, Table

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.cli.card import card_command
from perception_nodes.cli.common import (
    BackendOption,
    DataRoot,
    JsonFlag,
    ModelName,
    ThreadsOption,
    check_folder,
    check_writable,
    compression_tool,
    progress_bar,
    say,
    say_problem,
)
from perception_nodes.cli.compile import compile_command
from perception_nodes.cli.import_model import MIN_AGREEMENT, import_command
from perception_nodes.cli.mistakes import mistakes_command
from perception_nodes.cli.signing import keys_command, sign_command, verify_command
from perception_nodes.evaluation import (
    Evaluation,
    LabelledSet,
    evaluate,
    taught_set,
)
from perception_nodes.evaluation.classes import class_losses
from perception_nodes.evaluation.datasets import images_of, parse_classes_map, read_sets
from perception_nodes.evaluation.gate import (
    Check,
    Margins,
    check_classes,
    check_loss,
    comparable_parent,
)
from perception_nodes.evaluation.matching import require_pycocotools
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import Model, available_models, load_model
from perception_nodes.networks.terms import Terms
from perception_nodes.report.page import shown
from perception_nodes.system.files import write_whole

model_app = typer.Typer(
    help="List, import, evaluate, calibrate, compile, compress and sign models.",
    no_args_is_help=True,
)


@model_app.command("list")
def list_command(as_json: JsonFlag = False) -> None:
    """List the installed models; a model whose file does not match its hash is an error.

    Example: perception model list --json
    """
    models = [load_model(name) for name in available_models()]
    if as_json:
        print(json.dumps([json.loads(model.model_dump_json()) for model in models], indent=2))
        return
    # A narrow terminal breaks the licence alone; `model card` tells the rest.
    whole = [
        Column(name, no_wrap=True) for name in ("model", "input", "precision", "GMAC", "mAP50-95")
    ]
    table = Table(*whole, Column("licence", overflow="fold"))
    for model in models:
        table.add_row(
            model.name,
            f"{model.input.width}x{model.input.height}",
            model.precision,
            "" if model.gmac is None else f"{model.gmac:.2f}",
            "\n".join(f"{name} {value:.3f}" for name, value in model.map50_95.items()),
            escape(_terms(model)),
        )
    Console().print(table)


@model_app.command("evaluate")
def evaluate_command(
    model: ModelName,
    data: Annotated[
        list[Path],
        typer.Option(
            help="A labelled set; may be repeated. A folder with images/ and labels/ (YOLO, "
            "with class names in classes.txt or a data.yaml) or a folder below images/; a "
            "data.yaml, for its val images; a COCO .json; or a description .yaml as in "
            "model_compression/datasets/."
        ),
    ],
    root: DataRoot = None,
    classes_map: Annotated[
        str,
        typer.Option(
            help="Which classes of the model count as which class of the set, if their names "
            "differ: 'car=car|bus|truck,rider=ignore', or a YAML file of the same form."
        ),
    ] = "",
    teacher: Annotated[
        str,
        typer.Option(
            help="A stronger model, name or folder, whose detections serve as labels: the "
            "figures are then agreement with it, and --data may have images alone."
        ),
    ] = "",
    teacher_score: Annotated[
        float,
        typer.Option(min=0.05, max=0.95, help="Lowest score of the teacher's detections to use."),
    ] = 0.4,
    across_classes: Annotated[
        bool,
        typer.Option(
            "--across-classes",
            help="Precision and recall with boxes that suppress those of other classes, as with "
            "the parameter across_classes:=true.",
        ),
    ] = False,
    backend: BackendOption = AUTO,
    threads: ThreadsOption = 0,
    at_least: Annotated[
        float, typer.Option(min=0, max=1, help="Exit status 1 if a set has a lower mAP50-95.")
    ] = 0.0,
    as_json: JsonFlag = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON into this file too.")] = None,
) -> None:
    """Measure a model's accuracy: COCO mAP50-95, by class and by object height.

    Labels are checked before the measurement begins. Heights are in pixels of the network's input.
    The interval is a 95 % bootstrap over images. Precision and recall are those at the thresholds
    of the run time. Without labels, --teacher compares with a stronger model.

    Example: perception model evaluate road-n --root ~/data --data
    model_compression/datasets/camvid-val.yaml

    Example: perception model evaluate road-n --data frames/ --teacher dense-416x256
    """
    if teacher and classes_map:
        raise SettingsError(
            "--classes-map is for labels, and --teacher gives its own; leave it out"
        )
    require_pycocotools()
    check_writable(out, "--out")
    subject = load_model(model)
    if teacher:
        strong = load_model(teacher)
        teachers = runtime_for(backend, strong)
        sets = _taught(subject, strong, data, root, teacher_score, teachers, threads)
    else:
        mapped = parse_classes_map(classes_map) if classes_map else None
        sets = read_sets(data, root, mapped)
    results, runtime = [], runtime_for(backend, subject)
    for one in sets:
        with progress_bar(f"{subject.name} on {one.name}") as progress:
            results.append(
                evaluate(subject, one, runtime, threads, progress, across_classes=across_classes)
            )
        if not as_json:
            Console().print(evaluation_table(results[-1]))
    text = json.dumps([result.model_dump() for result in results], indent=2)
    if as_json:
        print(text)
    if out is not None:
        write_whole(out, text + "\n")
    short = [result for result in results if result.map50_95 < at_least]
    for result in short:
        say_problem(
            "failed", f"{result.data}: mAP50-95 {result.map50_95:.4f} is below {at_least:g}"
        )
    if short:
        raise typer.Exit(1)


@model_app.command("calibrate")
def calibrate_command(
    model: ModelName,
    bag: Annotated[
        list[Path] | None, typer.Option(help="Recorded drive to take frames from; may be repeated.")
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of images to take frames from; may be repeated."),
    ] = None,
    frames: Annotated[
        int, typer.Option(min=8, max=100_000, help="Number of frames to calibrate on.")
    ] = 256,
    frames_license: Annotated[
        str, typer.Option(help="Licence of these frames, which the new model has its ranges from.")
    ] = "",
    out_model: Annotated[
        Path | None, typer.Option(help="Write the folder of the 8-bit model here.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Write the ranges here; by default calibration/int8/NAME.yaml."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a JPEG contact sheet of the frames here.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Labelled set to compare the new and old model on; may be repeated. Without it "
            "objects on the frames are compared alone."
        ),
    ] = None,
    root: DataRoot = None,
    max_loss: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="How much mAP50-95 the new model may lose on a set; if it loses more, or much of "
            "a class, it is not written and the exit status is 1.",
        ),
    ] = 0.01,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of objects on the frames that the new model and its float model must both "
            f"see, else as above: by default {MIN_AGREEMENT:g}, and {Margins.parent_agreement:g} "
            "where MODEL has 8 bits and its parent is the float model.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Choose frames that differ, and measure the ranges of an 8-bit network on them.

    Frames at equal steps of a drive mostly show the same road. Here each frame chosen is the one
    that differs most from the frames already chosen, and near duplicates are left out.

    A new model is written if it sees on --data what MODEL sees, or without --data if it sees on the
    frames what its float model sees.

    Example: perception model calibrate dense-416x256 --bag drives/rain --bag drives/night
    """
    if data and out_model is None:
        raise SettingsError("--data compares the new model with the old one: give --out-model too")
    if frames_license and out_model is None:
        raise SettingsError("--frames-license is kept in the new model: give --out-model too")
    if data:
        require_pycocotools()
    subject = load_model(model)
    path = table or Path("calibration/int8") / f"{subject.name}.yaml"
    check_writable(path, "--table")
    check_writable(sheet, "--sheet")
    check_folder(out_model, "--out-model")
    sets = read_sets(data or [], root)
    reference, least = subject, MIN_AGREEMENT
    if out_model is not None and not sets and subject.precision != "fp32":
        reference, least = comparable_parent(subject, sets), Margins.parent_agreement
    least = least if min_agreement is None else min_agreement
    from perception_nodes.evaluation.diversity import choose_frames, contact_sheet

    calibrate = compression_tool("model_compression.quantization", "calibrate")
    with progress_bar("looking at frames") as progress:
        chosen = choose_frames(bag or [], images or [], frames, subject.input, progress)
    for note in chosen.notes:
        say(note)
    if sheet is not None:
        write_whole(sheet, contact_sheet(chosen))
    facts = {"model": subject.name, "table": str(path), **chosen.facts()}
    say(f"measuring the ranges of {subject.name} on {len(chosen.frames)} frames")
    named = list(zip(chosen.names, chosen.frames, strict=True))
    if out_model is None:
        calibrate(subject.folder, named, path, None)
    else:
        with tempfile.TemporaryDirectory() as folder:
            made, ranges = Path(folder) / out_model.name, Path(folder) / "ranges.yaml"
            calibrate(subject.folder, named, ranges, made, frames_license)
            new = load_model(str(made))
            facts["map50_95"] = _compared(subject, new, sets, max_loss)
            if not sets and least:
                _check_agreement(reference, new, named, least)
            # The description comes last: it never names a file that is not there.
            for file in sorted(made.iterdir(), key=lambda file: file.name == "model.yaml"):
                write_whole(out_model / file.name, file.read_bytes())
            write_whole(path, ranges.read_bytes())
        facts["out_model"] = str(out_model)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        written = f"{path} and {out_model}" if out_model else str(path)
        say(f"Written to {written}")


model_app.command("compile")(compile_command)
model_app.command("import")(import_command)
model_app.command("card")(card_command)
model_app.command("mistakes")(mistakes_command)
model_app.command("keys")(keys_command)
model_app.command("sign")(sign_command)
model_app.command("verify")(verify_command)


@model_app.command("compress")
def compress_command(
    config: Annotated[
        Path,
        typer.Argument(
            help="YAML file of the run, as in model_compression/configs/.", metavar="CONFIG"
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder of the run; an interrupted run continues there."),
    ],
    until: Annotated[str | None, typer.Option(help="Stop after this step.")] = None,
) -> None:
    """Make a smaller 8-bit model: fine-tune, prune, heal, quantize, and measure its accuracy.

    Exit status 1 if the model loses more accuracy than the configuration allows.

    Example: perception model compress model_compression/configs/road-n.yaml --out runs/road-n
    """
    check_folder(out, "--out")
    refused = compression_tool("model_compression.errors", "GateRefused")
    compress = compression_tool("model_compression.pipeline", "compress")
    try:
        compress(config, out, until)
    except refused as error:
        say_problem("refused", error)
        raise typer.Exit(1) from error


def _terms(model: Model) -> str:
    """The licence in a few words."""
    name = model.license.partition(" (")[0].partition(";")[0]
    return f"{name}, not for products" if model.terms == Terms.OTHER else name


def evaluation_table(result: Evaluation) -> Group:
    """An evaluation as a table."""
    low, high = result.confidence
    table = Table(
        "",
        "objects",
        "mAP50-95",
        "mAP50",
        title=escape(f"{result.model} on {result.data}"),
        min_width=50,
    )
    for column in table.columns[1:]:
        column.justify = "right"

    def row(name: str, objects: int, map50_95: float | None, map50: float | None) -> None:
        cells = (shown(value, "{:.4f}") for value in (map50_95, map50))
        table.add_row(name, str(objects), *cells)

    objects = sum(score.objects for score in result.by_class.values())
    row(f"[bold]all, {result.images} images", objects, result.map50_95, result.map50)
    table.add_row("  95 % interval", "", f"{low:.3f} to {high:.3f}", "")
    for title, scores in (("", result.by_class), (" px high", result.by_height)):
        table.add_section()
        for name, score in scores.items():
            row(escape(name) + title, score.objects, score.map50_95, score.map50)
    point = result.operating_point
    rates = {"precision": point.precision, "recall": point.recall, "F1": point.f1}
    said = ", ".join(f"{k} {shown(v, '{:.3f}')}" for k, v in rates.items())
    thresholds = f"at score {point.score_threshold:g} and IoU 0.5"
    return Group(table, f"{thresholds}: {said}", *map(escape, result.notes), "")


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


def _compared(
    old: Model, new: Model, sets: list[LabelledSet], max_loss: float
) -> dict[str, dict[str, float]]:
    """Measure both models, and write it with the new one; exit status 1 if it loses too much."""
    before, now = list[Evaluation](), list[Evaluation]()
    for one in sets:
        for model, seen in ((old, before), (new, now)):
            with progress_bar(f"{model.name} on {one.name}") as progress:
                seen.append(evaluate(model, one, progress=progress))
        said = f"mAP50-95 {before[-1].map50_95:.4f} before, {now[-1].map50_95:.4f} now"
        say(f"{one.name}: {said}")
    pairs = list(zip(before, now, strict=True))
    checks = [
        check_loss(old.name, new.name, a.data, [a.map50_95], [b.map50_95], max_loss)
        for a, b in pairs
    ]
    losses = class_losses(new.classes, before, now)
    _refuse([*checks, *check_classes(old.name, new.name, losses, Margins.class_loss)])
    compression_tool("model_compression.trial").add_accuracy(new.folder, now, say)
    if not sets:
        say("accuracy of the new model was not measured: give --data for that")
    return {a.data: {"old": a.map50_95, "new": b.map50_95} for a, b in pairs}


def _check_agreement(
    reference: Model, new: Model, frames: list[tuple[str, NDArray[np.uint8]]], least: float
) -> None:
    """Compare objects on frames; exit status 1 if too few are seen by both."""
    trial = compression_tool("model_compression.trial").Trial
    (check,), _ = trial(reference, frames, [], Margins(least), progress_bar).checks(new)
    _refuse([check])
    say(f"{check.measure}: {check.value:g}, with {check.reference}")


def _refuse(checks: list[Check]) -> None:
    for check in checks:
        if check.refusal:
            say_problem("refused", check.refusal)
            raise typer.Exit(1)
