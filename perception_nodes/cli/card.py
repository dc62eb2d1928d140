"""`perception model card`: a page on what a model is for, and what it gets wrong."""

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

    Example: perception model card open-n --out out/open-n.html

    Example: perception model card road-n --data my/set --pictures 40
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
