"""Writes what the runtimes compute for frames of the sample drive, to be compared between machines.

    python packaging/network_outputs.py FILE.npz [MODEL]

The file has the network's input, each output tensor, the decoded objects, and the step of one code
of each output. `packaging/arm64_test.py` compares the files of two machines.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout, installed or not

from perception_nodes.backends.contract import BackendSettings, open_model  # noqa: E402
from perception_nodes.backends.qdq import read_network  # noqa: E402
from perception_nodes.core.decode import DecodeSettings  # noqa: E402
from perception_nodes.core.frame import FrameHeader  # noqa: E402
from perception_nodes.drives.bag import open_drive  # noqa: E402
from perception_nodes.networks.model import load_model  # noqa: E402
from perception_nodes.transport.cdr_reader import read_image  # noqa: E402

DRIVE = Path(__file__).parents[1] / "bags/sample_sqlite3"
EVERY, FIRST = 20, 10
RUNTIMES = ("golden", "litert", "onnxruntime", "openvino")


def main() -> int:
    """Write the file; return the exit status."""
    out, name = Path(sys.argv[1]), (sys.argv[2:] or ["road-n"])[0]
    model = load_model(name)
    preprocessor, images = model.input.preprocessor(), []
    drive = open_drive(DRIVE, "")
    for frame in drive.frames():
        if frame.index % EVERY == FIRST:
            images.append(np.zeros((model.input.height, model.input.width, 3), np.uint8))
            preprocessor.write(read_image(frame.data), images[-1], FrameHeader())
    arrays = {f"input/image/{index}": image for index, image in enumerate(images)}
    steps = read_network(model.path).output_steps
    arrays |= {f"step/{output}": np.float64(step) for output, step in steps.items()}
    decoder = model.decoder(DecodeSettings())
    names = [*model.outputs.box, *model.outputs.classes]
    for runtime in RUNTIMES:
        with open_model(runtime, model, BackendSettings(threads=1)) as backend:
            for index, image in enumerate(images):
                heads = backend.infer(image)
                for output, tensor in zip(names, (*heads.boxes, *heads.classes), strict=True):
                    arrays[f"{runtime}/{output}/{index}"] = tensor.copy()
                found = decoder.decode(heads.boxes, heads.classes)
                arrays[f"{runtime}/objects/{index}"] = np.column_stack(
                    (found.classes, found.scores, found.boxes)
                )
        print(f"network_outputs: {runtime} has seen {len(images)} frames", flush=True)
    np.savez(out, **arrays)
    return 0


if __name__ == "__main__":
    sys.exit(main())
