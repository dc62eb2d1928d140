"""`perception model card`: a page that says what a model is for, and where it is weak."""

from pathlib import Path
from typing import Annotated

import typer

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.cli.common import (
    DataRoot,
    ModelName,
    check_writable,
    progress_bar,
    say,
    say_problem,
)
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.evaluation import evaluate
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.networks.model import load_model
from perception_nodes.system.files import write_whole

THREADS = (1, 2)


def card_command(
    model: ModelName,
    out: Path | None = None,
    data: list[Path] | None = None,
    root: DataRoot = None,
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
    from perception_nodes.evaluation.models import Disagreement, ModelsBench
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
    try:
        timed = ModelsBench([subject], frames, THREADS, []).run(say) if frames else None
    except Disagreement as error:
        say_problem("failed", error)
        raise typer.Exit(1) from error
    write_whole(page, render(subject, accuracy, timed, examined))
    say(f"Written to {page}")
