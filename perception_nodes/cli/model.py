"""`perception model COMMAND`: what models there are, how good they are, how they are made."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.cli import options
from perception_nodes.cli.common import check_writable, give, progress_bar, say, say_problem
from perception_nodes.cli.compile import compile_command
from perception_nodes.cli.described import Commands
from perception_nodes.cli.import_model import import_command
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.evaluation.accuracy import Evaluation, evaluate
from perception_nodes.evaluation.compression_tools import compression_tool
from perception_nodes.evaluation.datasets import images_of, parse_classes_map, read_sets
from perception_nodes.evaluation.gate import MIN_AGREEMENT, Margins
from perception_nodes.evaluation.matching import require_pycocotools
from perception_nodes.evaluation.teacher import taught_set
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import Model, available_models, load_model
from perception_nodes.networks.signature import make_keys, sign, signature_of
from perception_nodes.networks.terms import Terms
from perception_nodes.report.figures import figure_table
from perception_nodes.report.page import shown
from perception_nodes.system.files import write_whole

THREADS = (1, 2)
_AGREEMENT = (
    "Share of objects on the frames that the new model and its float model must both see, "
    f"else as above: by default {MIN_AGREEMENT:g}, and {Margins.parent_agreement:g} where "
    "MODEL has 8 bits and its parent is the float model."
)
MinAgreement = Annotated[float | None, typer.Option(min=0, max=1, help=_AGREEMENT)]
_HELP = "List, import, evaluate, calibrate, compile, compress and sign models."
model_app = Commands(help=_HELP, no_args_is_help=True)


@model_app.command("list")
def list_command(as_json: options.Json = False) -> None:
    """List the installed models; a model whose file does not match its hash is an error.

    Example: perception model list --json
    """
    models = [load_model(name) for name in available_models()]
    # Only the licence is wrapped on a narrow terminal; `model card` shows the rest.
    titles = ("model", "input", "precision", "GMAC", "mAP50-95")
    whole = [Column(title, no_wrap=True) for title in titles]
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
    give([json.loads(model.model_dump_json()) for model in models], table, as_json)


@model_app.command("evaluate")
def evaluate_command(
    model: options.ModelName,
    data: list[Path],
    root: options.DataRoot = None,
    classes_map: str = "",
    teacher: str = "",
    teacher_score: Annotated[float, typer.Option(min=0.05, max=0.95)] = 0.4,
    across_classes: bool = False,
    second_look: Annotated[int, typer.Option(min=0, max=16)] = 0,
    backend: options.Backend = AUTO,
    threads: options.Threads = 0,
    at_least: options.Share = 0.0,
    as_json: options.Json = False,
    out: options.OutFile = None,
) -> None:
    """Measure a model's accuracy: COCO mAP50-95, by class and by object height.

    Labels are checked before the measurement begins. Heights are in pixels of the network's input.
    The interval is a 95 % bootstrap over images. Precision and recall are those at the thresholds
    of the run time. Without labels, --teacher compares with a stronger model.

    Options:
        data: A labelled set; may be repeated. A folder with images/ and labels/ (YOLO, with class
            names in classes.txt or a data.yaml) or a folder below images/; a data.yaml, for its val
            images; a COCO .json; or a description .yaml as in model_compression/datasets/.
        classes_map: Which classes of the model count as which class of the set, if their names
            differ: 'car=car|bus|truck,rider=ignore', or a YAML file of the same form.
        teacher: A stronger model, name or folder, whose detections serve as labels: the figures are
            then agreement with it, and --data may have images alone.
        teacher_score: Lowest score of the teacher's detections to use.
        across_classes: Precision and recall with boxes that suppress those of other classes, as
            with the parameter across_classes:=true.
        second_look: Look so often again at parts of each image, in its own resolution.
        at_least: Exit status 1 if a set has a lower mAP50-95.

    Example: perception model evaluate open-n --root ~/data --data
    model_compression/datasets/camvid-val.yaml

    Example: perception model evaluate open-n --data frames/ --teacher open-m
    """
    if teacher and classes_map:
        given = "--teacher gives its own"
        raise SettingsError(f"--classes-map is for labels, and {given}; leave it out")
    require_pycocotools()
    subject = load_model(model)
    if teacher:
        sets, strong = [], load_model(teacher)
        labelling = (teacher_score, runtime_for(backend, strong), threads)
        for path in data:
            name, files = images_of(path, root)
            with progress_bar(f"{strong.name} on {name}") as progress:
                sets.append(taught_set(strong, subject, name, files, *labelling, progress))
    else:
        sets = read_sets(data, root, parse_classes_map(classes_map) if classes_map else None)
    results, runtime = [], runtime_for(backend, subject)
    score = partial(evaluate, subject, across_classes=across_classes, second_look=second_look)
    for one in sets:
        with progress_bar(f"{subject.name} on {one.name}") as progress:
            results.append(score(one, runtime, threads, progress))
    tables = Group(*map(evaluation_table, results))
    give([result.model_dump() for result in results], tables, as_json, out)
    short = [result for result in results if result.map50_95 < at_least]
    for result in short:
        fault = f"{result.data}: mAP50-95 {result.map50_95:.4f} is below {at_least:g}"
        say_problem("failed", fault)
    if short:
        raise typer.Exit(1)


@model_app.command("calibrate")
def calibrate_command(
    model: options.ModelName,
    bag: options.Bags = None,
    images: options.Images = None,
    frames: Annotated[int, typer.Option(min=8, max=100_000)] = 256,
    frames_license: options.FramesLicense = "",
    out_model: options.WrittenFolder = None,
    table: Path | None = None,
    sheet: options.WrittenFile = None,
    data: options.ComparedData = None,
    root: options.DataRoot = None,
    max_loss: options.Share = 0.01,
    min_agreement: MinAgreement = None,
    as_json: options.Json = False,
) -> None:
    """Choose frames that differ, and measure the ranges of an 8-bit network on them.

    Frames at equal steps of a drive mostly show the same road. Here each frame chosen is the one
    that differs most from the frames already chosen, and near duplicates are left out.

    A new model is written if it sees on --data what MODEL sees, or without --data if it sees on the
    frames what its float model sees.

    Options:
        frames: Number of frames to calibrate on.
        out_model: Write the folder of the 8-bit model here.
        table: Write the ranges here; by default calibration/int8/NAME.yaml.
        sheet: Write a JPEG contact sheet of the frames here.
        max_loss: How much mAP50-95 the new model may lose on a set; if it loses more, or much of a
            class, it is not written and the exit status is 1.

    Example: perception model calibrate open-n-float --bag drives/rain --bag drives/night
    """
    if data and out_model is None:
        raise SettingsError("--data compares the new model with the old one: give --out-model too")
    if frames_license and out_model is None:
        raise SettingsError("--frames-license is kept in the new model: give --out-model too")
    subject = load_model(model)
    path = table or Path("calibration/int8") / f"{subject.name}.yaml"
    check_writable(path, "--table")
    sets = read_sets(data or [], root)
    calibration = compression_tool("model_compression.calibration", "Calibration")(
        subject, path, out_model, sets, max_loss, min_agreement, frames_license, progress_bar, say
    )
    facts = calibration.run(bag or [], images or [], frames, sheet)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        say(f"Written to {path}" + (f" and {out_model}" if out_model else ""))


model_app.command("compile")(compile_command)
model_app.command("import")(import_command)


@model_app.command("card")
def card_command(
    model: options.ModelName,
    out: Path | None = None,
    data: list[Path] | None = None,
    root: options.DataRoot = None,
    frames: Annotated[int, typer.Option(min=0, max=100_000)] = 60,
    pictures: Annotated[int, typer.Option(min=0, max=1000)] = 4,
    score_threshold: options.ScoreThreshold = DecodeSettings.score_threshold,
    backend: options.Backend = AUTO,
    threads: options.Threads = 0,
) -> None:
    """Write a page on a model: licence, data, weaknesses by class, height and light, latency here.

    With --data it says what the model gets wrong: objects that are missed, and boxes of another
    class, beside their object, twice on one, or where nothing is labelled. It counts each kind, has
    curves of precision and recall, and shows typical frames and the worst.

    Options:
        out: Write the page here; by default out/MODEL.html.
        data: Measure accuracy on this labelled set, as for `perception model evaluate`; may be
            repeated. Without it, the accuracy that model.yaml states is shown.
        frames: Timed calls for each number of threads; 0: none is timed.
        pictures: Frames of each set to show, of the worst and of the typical ones.
        score_threshold: Lowest score of a box in what the model gets wrong.

    Example: perception model card open-n --out out/open-n.html

    Example: perception model card open-n --data my/set --pictures 40
    """
    from perception_nodes.evaluation.mistakes import Examined, examine
    from perception_nodes.evaluation.model_card import render
    from perception_nodes.evaluation.models import ModelsBench
    from perception_nodes.evaluation.stated_accuracy import stated_accuracy

    subject = load_model(model)
    page = out or Path("out") / f"{subject.name}.html"
    check_writable(page, "--out")
    settings, runtime = DecodeSettings(score_threshold), runtime_for(backend, subject)
    examined: list[Examined] = []
    accuracy = {} if data else stated_accuracy(subject)
    for one in read_sets(data or [], root):
        with progress_bar(f"{subject.name} on {one.name}") as progress:
            accuracy[one.name] = evaluate(subject, one, runtime, threads, progress).facts()
        with progress_bar(f"looking at {one.name}") as progress:
            examined.append(examine(subject, one, settings, runtime, threads, progress))
    timed = ModelsBench([subject], frames, THREADS, []).run(say) if frames else None
    write_whole(page, render(subject, accuracy, timed, examined, pictures, score_threshold))
    say(f"Written to {page}")


@model_app.command("keys")
def keys_command(private: Annotated[Path, typer.Argument(metavar="FILE")]) -> None:
    """Make a pair of keys (Ed25519): the private one signs models, the public one goes to vehicles.

    Options:
        private: The private key; FILE.pub is the public one.

    Example: perception model keys ~/fleet.key
    """
    public = private.with_name(f"{private.name}.pub")
    make_keys(private, public)
    say(f"Written to {private}, which nobody else may have, and {public}")


@model_app.command("sign")
def sign_command(model: options.ModelName, key: Path) -> None:
    """Sign a model, after a check of its files: model.yaml.sig says that it is the key owner's.

    A graph with model_key:=FILE.pub loads no other models.

    Options:
        key: The private key, of `perception model keys`.

    Example: perception model sign models/open-n --key ~/fleet.key
    """
    description = _checked(model).folder / "model.yaml"
    path = signature_of(description)
    check_writable(path, "the signature")
    write_whole(path, sign(description, key))
    say(f"Written to {path}")


@model_app.command("verify")
def verify_command(model: options.ModelName, key: Path) -> None:
    """Check a model's signature and the hashes of its files; exit status 2 if one is wrong.

    Options:
        key: The public key.

    Example: perception model verify open-n --key /etc/perception/fleet.key.pub
    """
    say(f"{_checked(model, str(key)).name} is signed by the owner of {key}")


@model_app.command("compress")
def compress_command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG")],
    out: options.OutFolder,
    until: str | None = None,
) -> None:
    """Make a smaller 8-bit model: fine-tune, prune, heal, quantize, and measure its accuracy.

    Exit status 1 if the model loses more accuracy than the configuration allows.

    Options:
        config: YAML file of the run, as in model_compression/configs/.
        out: Folder of the run; an interrupted run continues there.
        until: Stop after this step.

    Example: perception model compress my/own.yaml --out runs/forklift-n
    """
    compression_tool("model_compression.pipeline", "compress")(config, out, until)


def _checked(name: str, key: str = "") -> Model:
    """Load a model and check all of its files; a node would check only those that it uses."""
    model = load_model(name, key)
    if model.s8 is not None:
        model.signed_file()
    return model


def _terms(model: Model) -> str:
    """The licence in a few words."""
    name = model.license.partition(" (")[0].partition(";")[0]
    return f"{name}, not for products" if model.terms == Terms.OTHER else name


def evaluation_table(result: Evaluation) -> Group:
    """An evaluation as a table."""
    low, high = result.confidence
    title = escape(f"{result.model} on {result.data}")
    table = figure_table([""], ["objects", "mAP50-95", "mAP50"], title)
    table.min_width = 50

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
    figures = ", ".join(f"{k} {shown(v, '{:.3f}')}" for k, v in rates.items())
    thresholds = f"at score {point.score_threshold:g} and IoU 0.5"
    alarms = f"{point.false_alarms:.2f} false alarms an image"
    return Group(table, f"{thresholds}: {figures}, {alarms}", *map(escape, result.notes), "")
