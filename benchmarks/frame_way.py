"""What each part of a frame's way takes at a camera's pace, with a detector's real-time priority.

    .venv/bin/python benchmarks/frame_way.py --model open-n --threads 2

Bare inference in a tight loop, at a camera's pace, and behind the copy of a frame, which empties
the caches; waking from sleep, copying and scaling 1080p, decoding; with processors kept awake and
not.
"""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np

from perception_nodes.backends.contract import BackendSettings, open_backend
from perception_nodes.core.decode import DecodeSettings
from perception_nodes.core.frame import FrameHeader, ImageView
from perception_nodes.networks.model import load_model
from perception_nodes.system.awake import kept_awake
from perception_nodes.system.realtime import RealTime, allowed_priority

PERIOD_S = 1 / 30
RANKS = (50, 95, 99)


def took_ms(call: Callable[[], object]) -> float:
    """How long a call takes."""
    begin_ns = time.monotonic_ns()
    call()
    return (time.monotonic_ns() - begin_ns) / 1e6


def say(what: str, times_ms: list[float]) -> None:
    """Print the percentiles of times."""
    print(f"  {what:34}" + "".join(f"{one:8.2f}" for one in np.percentile(times_ms, RANKS)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="open-n")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--frames", type=int, default=90)
    given = parser.parse_args()
    model = load_model(given.model)
    backends = {
        name: open_backend(name, BackendSettings(given.threads)) for name in ("litert", "openvino")
    }
    for backend in backends.values():
        backend.load(model)
    RealTime().begin("", allowed_priority(), 0, lock_memory=False, longest_s=5.0)
    camera = np.full((1080, 1920, 3), 127, np.uint8)
    slot = np.empty_like(camera)
    image = np.zeros((model.input.height, model.input.width, 3), np.uint8)
    preprocessor, header = model.input.preprocessor(), FrameHeader()
    decoder, frames = model.decoder(DecodeSettings()), range(given.frames)

    def copy() -> None:
        np.copyto(slot, camera)

    def scale() -> None:
        preprocessor.write(ImageView.of_pixels(slot), image, header)

    def paced(call: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
        time.sleep(PERIOD_S)
        before()
        return took_ms(call)

    for is_awake in (False, True):
        with kept_awake(os.sched_getaffinity(0)) if is_awake else nullcontext():
            print(f"processors {'kept awake' if is_awake else 'may sleep'}, ms: p50, p95, p99")
            slept = [took_ms(lambda: time.sleep(PERIOD_S)) - 1e3 * PERIOD_S for _ in frames]
            say("waking", slept)
            say("copy of 1080p", [paced(copy) for _ in frames])
            say("scaling, behind the copy", [paced(scale, copy) for _ in frames])
            for name, backend in backends.items():
                infer = lambda backend=backend: backend.infer(image)  # noqa: E731
                heads = infer()
                decode = lambda heads=heads: decoder.decode(heads.boxes, heads.classes)  # noqa: E731
                say(f"{name} in a tight loop", [took_ms(infer) for _ in frames])
                say(f"{name} at pace", [paced(infer) for _ in frames])
                say(f"{name} behind the copy", [paced(infer, copy) for _ in frames])
                say("decoding, behind inference", [paced(decode, infer) for _ in frames])


if __name__ == "__main__":
    main()
