"""Where calibration frames are from, and their licence: part of what a model was made from."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_nodes.networks.terms import UNSTATED

RANGES = " (ranges of 8-bit values)"


def calibrated_on(
    frames: Sequence[tuple[str, NDArray[np.uint8]]], license: str, data: list[Any] | None
) -> tuple[dict[str, Any], list[Any]]:
    """What `model.yaml` says of calibration frames, under `quantization` and `data`.

    Args:
        frames: where each comes from, and its pixels.
        license: of the frames; empty if nobody has said it.
        data: what the description has under that key; ranges that were taken before are no more.
    """
    counts = Counter(re.split("[:/]", name)[0] for name, _ in frames)
    together = hashlib.sha256(b"".join(frame.tobytes() for _, frame in frames)).hexdigest()
    stated = license or f"{UNSTATED[0]}: --frames-license was not given"
    kept = [
        one
        for one in data or []
        if not isinstance(one, dict) or not str(one.get("name")).endswith(RANGES)
    ]
    kept += [{"name": f"{name}{RANGES}", "license": stated} for name in counts]
    return {"calibration_sources": dict(counts), "calibration_sha256": together}, kept
