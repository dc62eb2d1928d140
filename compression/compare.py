"""Check that a quantized file means the same to every runtime, and time it.

Without fused kernels ONNX Runtime computes Q/DQ files literally, in float: the reference. Kernels
on 8 bits may differ from it by rounding, but neither by saturation nor by a lost scale.
"""

import argparse
import statistics
import time
from pathlib import Path

import cv2
import numpy as np

from compression.contract import OUTPUT_NAMES
from compression.decode import decode, suppress
from compression.evaluate import open_model
from compression.letterbox import letterbox


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of the angle between two tensors of one shape."""
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def lone_detections(a: list[np.ndarray], b: list[np.ndarray], min_score: float) -> tuple[int, int]:
    """Count a's detections, and those of them that b lacks (class and IoU > 0.8).

    ``a`` and ``b`` are head outputs of the same frame. A lone detection's score may lie just
    above the threshold, so b is searched down to four fifths of it.
    """
    boxes_a, classes_a, _ = suppress(*decode(a), min_score, 0.5)
    boxes_b, classes_b, _ = suppress(*decode(b), 0.8 * min_score, 0.5)
    corner = np.maximum(boxes_a[:, None, :2], boxes_b[None, :, :2])
    opposite = np.minimum(boxes_a[:, None, 2:], boxes_b[None, :, 2:])
    shared = (opposite - corner).clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (boxes_a, boxes_b)]
    iou = shared / (areas[0][:, None] + areas[1][None] - shared)
    found = ((iou > 0.8) & (classes_a[:, None] == classes_b[None])).any(axis=1)
    return len(found), int((~found).sum())


def report_agreement(model: Path, frames: list[np.ndarray], threads: int) -> None:
    """Print how far OpenVINO is from ONNX Runtime on the frames (uint8 [256, 416, 3] BGR)."""
    infer_openvino = open_model(model, "openvino", threads)
    infer_reference = open_model(model, "onnxruntime", threads)
    pairs = [(infer_openvino(frame), infer_reference(frame)) for frame in frames]
    for index, name in enumerate(OUTPUT_NAMES):
        cosines = [cosine(a[index], b[index]) for a, b in pairs]
        print(f"{name:9} cosine: least {min(cosines):.5f}, mean {np.mean(cosines):.5f}")
    for label, ordered in (
        ("OpenVINO", pairs),
        ("ONNX Runtime", [(b, a) for a, b in pairs]),
    ):
        counts = np.array([lone_detections(a, b, min_score=0.25) for a, b in ordered]).sum(axis=0)
        print(f"{label}: {counts[0]} detections, {counts[1]} of them not found by the other")


def report_latency(models: list[Path], frames: list[np.ndarray], rounds: int) -> None:
    """Print each file's median latency in OpenVINO, measured in turns, with 1 and 2 threads."""
    for threads in (1, 2):
        runs = [open_model(model, "openvino", threads) for model in models]
        times_ms: list[list[float]] = [[] for _ in models]
        for turn in range(rounds):
            for infer, times in zip(runs, times_ms, strict=True):
                start = time.perf_counter()
                infer(frames[turn % len(frames)])
                times.append(1e3 * (time.perf_counter() - start))
        for model, times in zip(models, times_ms, strict=True):
            median = statistics.median(times[rounds // 10 :])  # the first calls warm up
            print(f"{threads} threads: {median:6.2f} ms  {model.name}")


def main() -> None:
    """Compare the runtimes on the last file, and the latencies of all files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="ONNX files")
    parser.add_argument("--frames", type=Path, required=True, help="folder of images")
    parser.add_argument("--count", type=int, default=40, help="frames to use")
    parser.add_argument("--rounds", type=int, default=300, help="timed calls a file; 0: none")
    args = parser.parse_args()
    paths = sorted(args.frames.glob("*.*"))
    chosen = paths[:: max(1, len(paths) // args.count)][: args.count]
    frames = [letterbox(cv2.imread(str(path)))[0] for path in chosen]
    report_agreement(args.models[-1], frames, threads=2)
    if args.rounds:
        report_latency(args.models, frames, args.rounds)


if __name__ == "__main__":
    main()
