"""`perception model calibrate`: the ranges of an 8-bit model, measured on frames that differ."""

import json
from pathlib import Path
from typing import Annotated

import typer

from perception_nodes.cli import options
from perception_nodes.cli.common import check_writable, progress_bar, say
from perception_nodes.evaluation.compression_tools import compression_tool
from perception_nodes.evaluation.datasets import read_sets
from perception_nodes.evaluation.gate import MIN_AGREEMENT, Margins
from perception_nodes.graph.settings import SettingsError
from perception_nodes.networks.model import load_model

MinAgreement = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of objects on the frames that the new model and its float model must both see, "
        f"else as above: by default {MIN_AGREEMENT:g}, and {Margins.parent_agreement:g} where "
        "MODEL has 8 bits and its parent is the float model.",
    ),
]


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

    Example: perception model calibrate dense-416x256 --bag drives/rain --bag drives/night
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
