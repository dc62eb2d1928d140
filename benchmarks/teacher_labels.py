"""Label the frames of a drive with a detector at their full resolution, as a COCO file.

The detector is one of Intel's `person-vehicle-bike-detection`, with outputs `boxes` and `labels`.
What it is not sure of is marked as a crowd: neither right nor wrong to detect.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import openvino

from perception_nodes.system.files import write_whole

NAMES = "vehicle", "person", "two-wheeler"
SURE, DOUBTFUL = 0.4, 0.2
LEAST_PX = 10
STRIDE = 32


def main() -> None:
    """Label all frames of a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="the detector's .xml")
    parser.add_argument("frames", type=Path, help="folder of images of one size")
    parser.add_argument("out", type=Path, help="COCO file to write")
    given = parser.parse_args()
    files = sorted(path for path in given.frames.iterdir() if path.suffix in (".jpg", ".png"))
    if not files:
        parser.error(f"{given.frames} has no .jpg or .png: name a folder with frames of a drive")
    core = openvino.Core()
    model = core.read_model(given.weights)
    height, width = cv2.imread(str(files[0])).shape[:2]
    size = tuple(-(-length // STRIDE) * STRIDE for length in (width, height))
    model.reshape([1, 3, *size[::-1]])
    network = core.compile_model(model, "CPU")
    images, annotations = [], []
    for number, file in enumerate(files):
        pixels = cv2.resize(cv2.imread(str(file)), size).transpose(2, 0, 1)
        found = network(pixels[None].astype(np.float32))
        images.append({"id": number, "file_name": file.name, "width": width, "height": height})
        scale = np.array([width / size[0], height / size[1]] * 2)
        for (*corners, score), label in zip(found["boxes"], found["labels"], strict=True):
            x1, y1, x2, y2 = (corners * scale).tolist()
            if score < DOUBTFUL or label not in range(len(NAMES)):
                continue
            unsure = score < SURE or y2 - y1 < LEAST_PX
            box = [x1, y1, x2 - x1, y2 - y1]
            one = {"id": len(annotations) + 1, "image_id": number, "category_id": int(label)}
            one |= {"bbox": box, "area": box[2] * box[3], "iscrowd": int(unsure)}
            annotations.append(one)
        print(f"\r{number + 1} of {len(files)} frames", end="", flush=True)
    categories = [{"id": index, "name": name} for index, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_whole(given.out, json.dumps(content))
    print(f"\n{len(annotations)} objects, written to {given.out}")


if __name__ == "__main__":
    main()
