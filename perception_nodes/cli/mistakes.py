"""`perception model mistakes`: a page of what a model gets wrong."""

from pathlib import Path
from typing import Annotated

import typer

from perception_nodes.backends.auto import AUTO, runtime_for
from perception_nodes.cli.common import (
    BackendOption,
    DataRoot,
    ModelName,
    ScoreThreshold,
    ThreadsOption,
    check_writable,
    progress_bar,
    say,
)
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.networks.model import load_model
from perception_nodes.system.files import write_whole


def mistakes_command(
    model: ModelName,
    data: list[Path],
    out: Path | None = None,
    root: DataRoot = None,
    frames: Annotated[int, typer.Option(min=1, max=1000)] = 40,
    score_threshold: ScoreThreshold = DecodeSettings.score_threshold,
    backend: BackendOption = AUTO,
    threads: ThreadsOption = 0,
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
