"""8 bits for a detector that was trained elsewhere, and the check that it still detects.

Which quantizer made it, is said and written down. The 8-bit network is compared with the float one
on the user's frames, and on labelled sets where there are any. If it lost too much, the layers that
cost most are kept float, as few as will do.
"""

from collections.abc import Callable
from pathlib import Path

import onnx
import yaml

from model_compression.errors import GateRefused
from model_compression.frames import Frames
from model_compression.quantization import write_table
from model_compression.quantization.emit import write_files
from model_compression.quantization.sources import calibrated_on
from model_compression.quantizers import Eight, quantizer_for
from model_compression.trial import Trial, add_accuracy
from perception_nodes.backends.contract import open_model
from perception_nodes.evaluation.gate import GateCheck
from perception_nodes.networks.model import Model, ModelError, load_model
from perception_nodes.networks.two_runtimes import check_runs
from perception_nodes.system.files import write_whole

KEPT_FLOAT = (0, 2, 4, 8, 16)
"""How many of the costliest layers are kept float, one try after the other."""
FRAMES_TO_RUN = 4


def quantize_imported(
    parent: Model, made: Path, trial: Trial, say: Callable[[str], None], frames_license: str = ""
) -> list[GateCheck]:
    """Make the 8-bit form of an imported model.

    Args:
        parent: the float model.
        made: folder to write it into, of the model's name; the caller moves it to its place.
        trial: what it is compared on.
        say: tells people what happens.
        frames_license: of the frames, which the ranges are taken from.

    Returns:
        The checks that it passed.

    Raises:
        GateRefused: it costs too much, even with the costliest layers kept float.
        CompressionError: it cannot be quantized.
    """
    network = onnx.load(parent.path)
    quantizer = quantizer_for(network, trial.frames, made.name)
    say(f"quantized by {quantizer.name} on {len(trial.frames)} frames")
    costs: dict[str, float] = {}
    refusal = ""
    for count in KEPT_FLOAT:
        if count and not costs:
            with trial.bar("cost of 8 bits, layer by layer") as progress:
                costs = quantizer.costs(progress)
            say(_table(costs))
        eight = quantizer.quantize(list(costs)[:count])
        model = _written(parent, eight, made, trial.frames, frames_license)
        try:  # some frames tell whether it runs at all, before all are looked at
            check_runs(model, open_model, [frame for _, frame in trial.frames[:FRAMES_TO_RUN]])
        except ModelError as error:
            refusal = str(error)
        else:
            checks, evaluations = trial.checks(model)
            refused = next((check for check in checks if check.refusal), None)
            if refused is None:
                add_accuracy(made, evaluations, say)
                add_accuracy(parent.folder, trial.before)
                return checks
            refusal = refused.refusal
            if refused.at_fault == "frames":
                break
        say(f"with {count} layers float: {refusal}")
    raise GateRefused(refusal)


def _table(costs: dict[str, float], most: int = 8) -> str:
    shown = [f"{1e3 * cost:10.3f}  {name}" for name, cost in list(costs.items())[:most]]
    rest = sum(list(costs.values())[most:])
    if len(costs) > most:
        shown.append(f"{1e3 * rest:10.3f}  {len(costs) - most} others together")
    return "\n".join(["cost of 8 bits by layer, thousandths an object:", *shown])


def _written(
    parent: Model, eight: Eight, folder: Path, frames: Frames, frames_license: str
) -> Model:
    """Write the files of an 8-bit model, and its description."""
    description = yaml.safe_load((parent.folder / "model.yaml").read_text(encoding="utf-8"))
    files = write_files(eight.files, folder)
    if eight.table is not None:
        write_table(eight.table, folder / "ranges.yaml")
    description.pop("accuracy", None)
    calibration, data = calibrated_on(frames, frames_license, description.get("data"))
    description |= {
        "name": folder.name,
        **files.pop("u8"),
        **files,
        "precision": "int8",
        "parent": parent.name,
        "quantization": eight.facts | calibration,
        "data": data,
    }
    text = yaml.safe_dump(description, sort_keys=False, width=100, allow_unicode=True)
    write_whole(folder / "model.yaml", text)
    return load_model(str(folder))
