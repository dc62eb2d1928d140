"""Writes what a runtime computes for pictures of the network's size, to be compared.

    python packaging/network_outputs.py RUNTIME FOLDER FILE.npz

The file has each output tensor and the decoded objects of each picture, and the step of one code of
each output. `arm64_test.py` compares the files of two machines.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, installed or not

from perception_nodes.backends.contract import BackendSettings, open_model  # noqa: E402
from perception_nodes.backends.qdq import read_network  # noqa: E402
from perception_nodes.core.decode import DecodeSettings  # noqa: E402
from perception_nodes.networks.model import load_model  # noqa: E402


def main() -> int:
    """Write the file; return the exit status."""
    runtime, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    model = load_model("open-n")
    steps = read_network(model.path).output_steps
    arrays = {f"step/{output}": np.float64(step) for output, step in steps.items()}
    decoder = model.decoder(DecodeSettings())
    names = [*model.outputs.box, *model.outputs.classes]
    with open_model(runtime, model, BackendSettings(threads=1)) as backend:
        for path in sorted(folder.glob("*.png")):
            heads = backend.infer(cv2.imread(str(path)))
            for output, tensor in zip(names, (*heads.boxes, *heads.classes), strict=True):
                arrays[f"{output}/{path.stem}"] = tensor.copy()
            found = decoder.decode(heads.boxes, heads.classes)
            arrays[f"objects/{path.stem}"] = np.column_stack(
                (found.classes, found.scores, found.boxes)
            )
            print(f"network_outputs: {runtime} has seen {path.name}", flush=True)
    np.savez(out, **arrays)
    return 0


if __name__ == "__main__":
    sys.exit(main())
