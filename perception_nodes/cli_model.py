"""`perception model COMMAND`: what models there are, how good they are, how they are made."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.table import Table

from perception_nodes.backends.base import BACKENDS
from perception_nodes.backends.model import Model, available_models, load_model
from perception_nodes.cli_common import (
    DataRoot,
    JsonFlag,
    ModelName,
    compression_tool,
    progress_bar,
    screen,
)
from perception_nodes.cli_compile import compile_command
from perception_nodes.config import SettingsError
from perception_nodes.evaluation import (
    Evaluation,
    LabelledSet,
    evaluate,
    read_set,
    taught_set,
)
from perception_nodes.evaluation.classes import class_losses
from perception_nodes.evaluation.gate import Margins, check_classes
from perception_nodes.evaluation.matching import require_pycocotools
from perception_nodes.evaluation.read import images_of, parse_classes_map
from perception_nodes.files import write_whole

model_app = typer.Typer(
    help="Models: what there is, how good it is, how it is made.", no_args_is_help=True
)


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
    root: DataRoot = None,
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
        write_whole(out, text + "\n")
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
    root: DataRoot = None,
    max_loss: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Of mAP50-95 on each set; a model that loses more, or much of a class, is not "
            "written, exit status 1.",
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

    errors = compression_tool("compression.errors")
    calibrate = compression_tool("compression.quantization", "calibrate")
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


model_app.command("compile")(compile_command)


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
    errors = compression_tool("compression.errors")
    compress = compression_tool("compression.pipeline", "compress")
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
    """Measure both models; exit status 1 where the new one loses too much."""
    found: dict[str, dict[str, float]] = {}
    seen: dict[str, list[Evaluation]] = {"old": [], "new": []}
    for one in sets:
        scores = found[one.name] = {}
        for title, model in (("old", old), ("new", new)):
            with progress_bar(f"{title} {model.name} on {one.name}") as progress:
                seen[title].append(evaluate(model, one, progress=progress))
            scores[title] = seen[title][-1].map50_95
        said = f"{one.name}: mAP50-95 {scores['old']:.4f} before, {scores['new']:.4f} now"
        if scores["old"] - scores["new"] > max_loss:
            screen.print(f"[bold red]refused:[/] {said}; {max_loss:g} may be lost")
            raise typer.Exit(1)
        screen.print(said, highlight=False)
    losses = class_losses(seen["old"], seen["new"])
    for check in check_classes("it was", new.name, losses, Margins.class_loss):
        if check.refusal:
            screen.print(f"[bold red]refused:[/] {check.refusal}", highlight=False, soft_wrap=True)
            raise typer.Exit(1)
    if not sets:
        screen.print("accuracy of the new model was not measured: give --data for that")
    return found
