"""Whether a network runs: two runtimes must see the same in test pictures.

Runtimes rewrite a network before they run it, and not every rewriting is right.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from timeit import repeat

import cv2
import numpy as np
from numpy.typing import NDArray

from perception_nodes.core.budget import DEADLINE_MS, enough_ms
from perception_nodes.core.decode import AbsurdOutput, DecodeSettings
from perception_nodes.core.frame import Detections
from perception_nodes.core.inference import CERTAIN, BackendError, InferenceBackend
from perception_nodes.networks.model import CellsSpec, Model, ModelError

OpenModel = Callable[[str, Model], AbstractContextManager[InferenceBackend]]
"""Opens a runtime by its name with a model loaded, and closes it at the end."""
RUNTIMES = ("onnxruntime", "openvino")
MAX_DIFFERENCE = {False: 0.02, True: 0.3}
"""Largest difference between two runtimes, by whether the network has 8 bits. It is a share of the
largest score, or of an object's size."""
MIN_SCALE = {False: 1e-3, True: 0.1}
"""Least score of which a difference is taken as a share, by whether the network has 8 bits."""
COMPARED_SCORE = {False: 1e-3, True: 0.05}
"""Least score of an object whose box is compared, by whether the network has 8 bits."""
EVERYTHING = DecodeSettings(score_threshold=1e-9, iou_threshold=1.0)
BEST = 10
"""Number of best objects of a picture whose boxes are compared."""
TIED = 1e-3
"""Scores that differ by a smaller share count as equal."""
MIN_SIZE = 8.0
"""Size in pixels below which boxes are noise."""
TIMED_LOOKS, SMALL = 15, 416
SHARE_OF_DEADLINE = 0.6
"""What inference may take of a frame's time; the rest is for the stages around it."""
FINE, COARSE = 6, 28
"""Sizes of the spots in test pictures, pixels: networks see different things in them."""


class Disagreement(ModelError):
    """Two runtimes compute different outputs of a model."""

    word, status = "failed", 1


def check_runs(
    model: Model,
    open_model: OpenModel,
    frames: Sequence[NDArray[np.uint8]] = (),
    runtimes: Sequence[str] = RUNTIMES,
) -> None:
    """Run a model on test pictures in two runtimes or more, which must see the same.

    Runtimes rewrite a network before they run it, and not every rewriting is right.

    Args:
        model: the model.
        open_model: opens a runtime with it.
        frames: more pictures, in the form of its input.
        runtimes: their names.

    Raises:
        Disagreement: they differ.
        ModelError: one refuses the model, or its output is impossible.
    """
    size = model.input.width, model.input.height
    pictures = [noise(*size, FINE), noise(*size, COARSE), *frames]
    # An OpenVINO model has no other runtime to be compared with.
    names = runtimes if model.path.suffix == ".onnx" else RUNTIMES[-1:]
    first, *others = (_seen(model, open_model, name, pictures) for name in names)
    _check_alive(model, first)
    eight = model.precision == "int8"
    for name, other in zip(names[1:], others, strict=True):
        pairs = list(zip(first, other, strict=True))
        scores = max(_scores_apart(one[0], two[0], MIN_SCALE[eight]) for one, two in pairs)
        boxes = max(_boxes_apart(one[1], two[1], COMPARED_SCORE[eight]) for one, two in pairs)
        for what, far in (("class scores", scores), ("boxes", boxes)):
            if not far <= MAX_DIFFERENCE[eight]:
                by = f"by {far:.0%} of the largest" if far < np.inf else "of which one has none"
                raise Disagreement(
                    f"{model.name}: {names[0]} and {name} compute different {what}, {by}: one of "
                    "them changes this network when it optimises it; export it again with another "
                    "opset, or simplified"
                )


def _check_alive(model: Model, seen: Sequence[tuple[NDArray[np.float32], Detections]]) -> None:
    """Refuse a network that answers the same to different pictures.

    Raises:
        ModelError: it does.
    """
    (scores, objects), (other_scores, others) = seen[:2]
    if isinstance(model.outputs, CellsSpec) and model.outputs.suppressed and not scores.any():
        return  # NMS inside the network leaves nothing of noise
    if np.array_equal(scores, other_scores) and np.array_equal(objects.boxes, others.boxes):
        reason = "its weights are zero or damaged; export or copy it again"
        if model.precision == "int8":
            reason = "8 bits leave nothing of it"
        raise ModelError(f"{model.name} answers the same to different pictures: {reason}")


def _seen(
    model: Model, open_model: OpenModel, runtime: str, pictures: Sequence[NDArray[np.uint8]]
) -> list[tuple[NDArray[np.float32], Detections]]:
    """What a runtime sees in each picture: best scores by class and level, and the best objects."""
    decoder = model.decoder(EVERYTHING)
    seen = []
    try:
        with open_model(runtime, model) as backend:
            for picture in pictures:
                heads = backend.infer(picture)
                best = [one.reshape(one.shape[1], -1).max(1) for one in heads.classes]
                scores = np.clip(np.concatenate(best), -CERTAIN, CERTAIN)
                seen.append((scores, decoder.decode(heads.boxes, heads.classes)))
    except BackendError as error:
        raise ModelError(f"{model.name} cannot be used: {error}") from error
    except AbsurdOutput as error:
        raise ModelError(
            f"{model.name} cannot be used: {error}, in a test picture; give another --head, or the "
            "--mean and --std that it was trained with"
        ) from error
    return seen


def tell_if_slow(model: Model, open_model: OpenModel, say: Callable[[str], None]) -> None:
    """Say what to do about a model whose inference alone takes too much of a frame's time.

    It is timed by OpenVINO on this machine, as fast as it can.
    """
    picture = noise(model.input.width, model.input.height, FINE)
    with open_model(RUNTIMES[-1], model) as backend:
        took_s = repeat(lambda: backend.infer(picture), number=1, repeat=TIMED_LOOKS)
    took_ms = 1e3 * float(np.median(took_s))
    if took_ms > SHARE_OF_DEADLINE * DEADLINE_MS:
        remedies = ["--size 416x256"] if model.input.width > SMALL else []
        remedies += ["--int8"] if model.precision != "int8" and model.file[-5:] == ".onnx" else []
        first = f"`{' '.join(remedies)}`, or " if remedies else ""
        last = f"`deadline_ms:={enough_ms(took_ms)}`"
        say(f"{took_ms:.0f} ms here; deadline {DEADLINE_MS:g}: {first}{last}")


def _scores_apart(one: NDArray[np.float32], two: NDArray[np.float32], least: float) -> float:
    """Largest difference, as a share of the largest score."""
    return float(np.abs(one - two).max()) / max(float(np.abs(one).max()), least)


def _boxes_apart(some: Detections, others: Detections, least: float) -> float:
    """How far the best objects are from the nearest of their class, as a share of their sizes.

    Boxes of the same cell are not compared: objects of equal score may change places, and with
    untrained weights a hundred objects are as good and may be missing. Nor are objects of a score
    below `least`, which any rounding may reorder.
    """
    sure = some.scores[:BEST] >= least
    if others.more:
        sure &= some.scores[:BEST] > (1 + TIED) * others.scores[-1]
    best, labels = some.boxes[:BEST][sure], some.classes[:BEST][sure]
    apart = np.abs(best[:, None] - others.boxes[None]).max(axis=2)
    apart[labels[:, None] != others.classes[None]] = np.inf
    sizes = np.maximum((best[:, 2:] - best[:, :2]).max(axis=1), MIN_SIZE)
    return float((apart.min(axis=1, initial=np.inf) / sizes).max(initial=0))


def noise(width: int, height: int, grain: int) -> NDArray[np.uint8]:
    """A picture, BGR, of random spots that are `grain` pixels large."""
    shape = -(-height // grain), -(-width // grain), 3
    spots = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
