"""`perception model card` and `mistakes`: pages on what a model is for, and what it gets wrong."""

from pathlib import Path
from typing import Annotated

import typer

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.cli import options
from perception_nodes.cli.common import check_writable, progress_bar, say
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.evaluation import evaluate
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.networks.model import load_model
from perception_nodes.system.files import write_whole

THREADS = (1, 2)


def card_command(
    model: options.ModelName,
    out: Path | None = None,
    data: list[Path] | None = None,
    root: options.DataRoot = None,
    frames: Annotated[int, typer.Option(min=0, max=100_000)] = 60,
) -> None:
    """Write a page on a model: licence, data, weaknesses by class, height and light, latency here.

    With --data it has curves of precision and recall, confusions, typical frames and the worst.

    Options:
        out: Write the page here; by default out/MODEL.html.
        data: Measure accuracy on this labelled set, as for `perception model evaluate`; may be
            repeated. Without it, the accuracy that model.yaml states is shown.
        frames: Timed calls for each number of threads; 0: none is timed.

    Example: perception model card open-n --out out/open-n.html
    """
    from perception_nodes.evaluation.mistakes import Examined, examine
    from perception_nodes.evaluation.model_card import render
    from perception_nodes.evaluation.models import ModelsBench
    from perception_nodes.evaluation.stated_accuracy import stated_accuracy

    subject = load_model(model)
    page = out or Path("out") / f"{subject.name}.html"
    check_writable(page, "--out")
    examined: list[Examined] = []
    if not data:
        accuracy = stated_accuracy(subject)
    else:
        accuracy, runtime = {}, runtime_for(AUTO, subject)
        for one in read_sets(data, root):
            with progress_bar(f"{subject.name} on {one.name}") as progress:
                accuracy[one.name] = evaluate(subject, one, progress=progress).facts()
            with progress_bar(f"looking at {one.name}") as progress:
                examined.append(examine(subject, one, DecodeSettings(), runtime, progress=progress))
    timed = ModelsBench([subject], frames, THREADS, []).run(say) if frames else None
    write_whole(page, render(subject, accuracy, timed, examined))
    say(f"Written to {page}")


def mistakes_command(
    model: options.ModelName,
    data: list[Path],
    out: Path | None = None,
    root: options.DataRoot = None,
    frames: Annotated[int, typer.Option(min=1, max=1000)] = 40,
    score_threshold: options.ScoreThreshold = DecodeSettings.score_threshold,
    backend: options.Backend = AUTO,
    threads: options.Threads = 0,
) -> None:
    """Write a page on what a model gets wrong: how often which mistake, and the worst frames.

    Mistakes are objects that are missed, and boxes of another class, beside their object, twice on
    one, or where nothing is labelled.

    Options:
        data: A labelled set, as for `perception model evaluate`; may be repeated.
        out: Write the page here; by default out/MODEL-mistakes.html.
        frames: Frames to show, shared out among the sets.

    Example: perception model mistakes road-n --data my/set --frames 40
    """
    from perception_nodes.evaluation.mistakes import examine
    from perception_nodes.evaluation.mistakes_page import render

    page = out or Path("out") / f"{Path(model).name}-mistakes.html"
    check_writable(page, "--out")
    subject = load_model(model)
    settings, runtime = DecodeSettings(score_threshold), runtime_for(backend, subject)
    examined = []
    for one in read_sets(data, root):
        with progress_bar(f"{subject.name} on {one.name}") as progress:
            examined.append(examine(subject, one, settings, runtime, threads, progress))
    write_whole(page, render(subject, score_threshold, examined, frames))
    say(f"Written to {page}")
