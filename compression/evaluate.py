"""Measure mAP50-95 of an ONNX detector on each evaluation set apart.

The sets disagree about what they label, so each has its own classes and its own blind spots; a
mean over the sets would mean nothing. Frames are letterboxed exactly as at run time.
"""

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from compression.contract import CLASS_NAMES, COCO_CLASS_IDS, INPUT_NAME, OUTPUT_NAMES
from compression.decode import decode, suppress
from compression.letterbox import letterbox

PERSON, BICYCLE, CAR, MOTORCYCLE, BUS, TRUCK, TRAFFIC_LIGHT, STOP_SIGN = range(len(CLASS_NAMES))


@dataclass(frozen=True)
class EvaluationSet:
    """Where a set is, what its labels mean, and which of the detector's classes they cover."""

    name: str
    images: str
    class_map: dict[int, tuple[int, ...]]
    """The set's class to those of ours that count as it: the label may be any of them."""
    ignored: tuple[int, ...] = ()
    """The set's classes whose objects are neither right nor wrong to detect."""
    min_height_px: float = 0.0
    max_aspect: float = np.inf
    """Smaller or wider boxes are ignored likewise."""


SETS = (
    EvaluationSet(
        "highway/valid",
        "highway/images/valid/*.jpg",
        {0: (BUS,), 1: (CAR,), 2: (MOTORCYCLE,), 3: (PERSON,), 4: (TRUCK,)},
    ),
    # Derived from masks: buses and trucks count as cars, rows of parked cars merge into one wide
    # box, and a bicyclist is rider and bicycle in one.
    EvaluationSet(
        "camvid/val",
        "camvid/images/val/*.*",
        {0: (CAR, BUS, TRUCK), 1: (PERSON,)},
        ignored=(2,),
        min_height_px=25,
        max_aspect=3.0,
    ),
    EvaluationSet(
        "coco128",
        "coco128/images/train2017/*.jpg",
        {coco: (ours,) for ours, coco in enumerate(COCO_CLASS_IDS)},
    ),
)


def open_model(path: Path, backend: str, threads: int) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return a function from a frame, uint8 [256, 416, 3] BGR, to the six outputs."""
    if backend == "openvino":
        import openvino

        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(threads),
        }
        compiled = openvino.Core().compile_model(path, "CPU", hints)

        def infer(frame: np.ndarray) -> list[np.ndarray]:
            results = compiled([frame[None]])
            return [results[name] for name in OUTPUT_NAMES]
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # The literal meaning of the file: no fusion into kernels on 8 bits.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def infer(frame: np.ndarray) -> list[np.ndarray]:
            return session.run(list(OUTPUT_NAMES), {INPUT_NAME: frame[None]})

    return infer


def truth_of(path: Path, frame: np.ndarray, which: EvaluationSet) -> Iterator[dict]:
    """Yield one image's labels as COCO annotations, without their ids."""
    labels = Path(str(path.with_suffix(".txt")).replace("/images/", "/labels/"))
    rows = labels.read_text().split("\n") if labels.exists() else []
    categories = list(which.class_map)
    for row in filter(None, rows):
        own, *fractions = map(float, row.split())
        x, y, width, height = np.array(fractions) * [*frame.shape[1::-1], *frame.shape[1::-1]]
        doubtful = height < which.min_height_px or width > which.max_aspect * height
        ignored = own in which.ignored
        if not ignored and own not in which.class_map:
            continue
        for category in categories if ignored else [int(own)]:
            yield {
                "category_id": category,
                "bbox": [x - width / 2, y - height / 2, width, height],
                "area": width * height,
                "iscrowd": int(ignored or doubtful),  # COCO's word for "do not count"
            }


def detections_of(
    infer: Callable[[np.ndarray], list[np.ndarray]], frame: np.ndarray, which: EvaluationSet
) -> Iterator[dict]:
    """Yield one image's detections in COCO's result form, without the image's id."""
    image, scale, corner = letterbox(frame)
    corners, scores = decode(infer(image))
    mapped = np.stack([scores[:, ours].max(axis=1) for ours in which.class_map.values()], axis=1)
    # Threshold and NMS of the usual validation: precision over the whole range of recall.
    boxes, classes, best = suppress(corners, mapped, min_score=0.001, max_iou=0.7)
    boxes = (boxes - np.tile(corner, 2)) / scale
    boxes = boxes.clip(0, np.tile(frame.shape[1::-1], 2))
    categories = list(which.class_map)
    for (left, top, right, bottom), index, score in zip(
        boxes.tolist(), classes, best.tolist(), strict=True
    ):
        yield {
            "category_id": categories[index],
            "bbox": [left, top, right - left, bottom - top],
            "score": score,
        }


def mean_average_precision(
    infer: Callable[[np.ndarray], list[np.ndarray]], data: Path, which: EvaluationSet
) -> dict:
    """Return a set's mAP50-95 and mAP50, and the AP50-95 of each class that occurs in it."""
    names = {
        own: " or ".join(CLASS_NAMES[i] for i in ours) for own, ours in which.class_map.items()
    }
    images, truth, found = [], [], []
    for index, path in enumerate(sorted(data.glob(which.images))):
        frame = cv2.imread(str(path))
        images.append({"id": index, "width": frame.shape[1], "height": frame.shape[0]})
        for row in truth_of(path, frame, which):
            truth.append({**row, "image_id": index, "id": len(truth) + 1})
        for row in detections_of(infer, frame, which):
            found.append({**row, "image_id": index})
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco = COCO()
        coco.dataset = {
            "images": images,
            "annotations": truth,
            "categories": [{"id": own, "name": name} for own, name in names.items()],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # precision: [IoU threshold, recall, class, area, detections], -1 where a class is absent
    by_class = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))
    # evaluation.params.catIds is sorted, as is each class map.
    return {
        "images": len(images),
        "map50_95": round(float(evaluation.stats[0]), 4),
        "map50": round(float(evaluation.stats[1]), 4),
        "classes": {
            names[own]: round(float(ap), 4)
            for own, ap in zip(evaluation.params.catIds, by_class, strict=True)
            if ap >= 0
        },
    }


def main() -> None:
    """Evaluate one file on all sets."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="ONNX, float or quantized")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--backend", choices=("openvino", "onnxruntime"), default="openvino")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    infer = open_model(args.model, args.backend, args.threads)
    results = {}
    for which in SETS:
        results[which.name] = mean_average_precision(infer, args.data, which)
        print(which.name, json.dumps(results[which.name]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
